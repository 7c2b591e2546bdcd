//! The forward pass, and the input gradient: a forward pass with input and output channels exchanged and the weight rotated by
//! 180°.

use std::ops::Range;

use super::{CACHE_SET_PADDING, TilePosition, Tiling};
use crate::conv::pass::{Pass, PassArgs, weight_steps};
use crate::conv::{Direction, Epilogue, Geometry};
use crate::memory::{Buffer, Scratch, SharedPtr, whole_lines};
use crate::pool::Pool;
use crate::simd::gemm::{BatchedGemm, PrefetchQueue};
use crate::simd::transform::{FilterPanel, PlaneSet, Transforms};
use crate::simd::{Kernels, ReluMask};

/// Transformed weights up to this size are computed before all tiles; larger ones panel by panel, where they are used.
const ALL_WEIGHTS_BYTES: usize = 5 << 20;

/// Most bytes of a block of transformed tiles, one block per thread: most of L2.
const BLOCK_BYTES: usize = 400 << 10;

/// Most bytes of transformed tiles at a time if weights are transformed panel by panel.
const CHUNK_BYTES: usize = 16 << 20;

/// Most tiles between a GEMM and the inverse transform if weights are transformed panel by panel.
const STRIP_TILES: usize = 64;

/// Prefetch distance of the outputs, in tiles.
const PREFETCH_DISTANCE: usize = 4;

/// Most depth (k) of a GEMM call, so that its panel of weights stays in L1.
const DEPTH: usize = 256;

/// A bilinear algorithm for one direction of one geometry.
pub(in super::super) struct Winograd {
    g: Geometry,
    direction: Direction,
    kernels: &'static Kernels,
    t: Transforms,
    tiling: Tiling,
    /// Whether all weights are transformed at once, to `[plane][panel][source channel][width]`.
    all_weights: bool,
    /// The transformed weights, if they are used by more than one call. Weights that train are not: those of all layers share one
    /// place in the scratch, which stays in cache.
    cached: Option<Buffer>,
    stale: bool,
    /// Tiles of a block (all weights at once), or images of a chunk (panel by panel).
    block: usize,
    /// Panels of a task.
    group: usize,
    threads: usize,
}

/// M = V U for some tiles and some panels.
struct TileGemm {
    v: *const f32,
    v_plane_step: usize,
    u: *const f32,
    u_plane_step: usize,
    /// Floats between tiles in V.
    v_step: usize,
    m: *mut f32,
    m_plane_step: usize,
    /// Floats between tiles in M.
    m_step: usize,
    tiles: usize,
    /// What to prefetch during the GEMM; null if the transforms prefetch for themselves.
    prefetch: *mut PrefetchQueue,
}

/// What is stored: the output, its 2x2 max pooling, or both; and how.
#[derive(Clone, Copy)]
struct Output<'a> {
    y: Option<SharedPtr>,
    pooled: Option<SharedPtr>,
    epilogue: Epilogue<'a>,
    mask: Option<ReluMask<'a>>,
}

impl Output<'_> {
    /// The output of the channels from `channel` on.
    fn skip_channels(self, channel: usize) -> Self {
        Output { epilogue: self.epilogue.skip(channel), ..self.skip_floats(channel, channel) }
    }

    /// The output `floats` floats further on, and `pooled` in the pooled one.
    fn skip_floats(self, floats: usize, pooled: usize) -> Self {
        Output { y: self.y.map(|y| y.skip(floats)), pooled: self.pooled.map(|p| p.skip(pooled)), ..self }
    }
}

impl Winograd {
    pub fn new(
        g: &Geometry,
        direction: Direction,
        batch: usize,
        threads: usize,
        kernels: &'static Kernels,
        t: Transforms,
        trains: bool,
    ) -> Winograd {
        let tiling = Tiling::new(g, direction, &t);
        let (ci, co) = (tiling.source[0], tiling.target[0]);
        let planes = t.coefficients * t.coefficients;
        let panels = co.div_ceil(kernels.panel());
        let weights = planes * Self::weight_plane(ci, kernels.padded(co));
        let all_weights = weights * size_of::<f32>() <= ALL_WEIGHTS_BYTES;
        let (block, group) = if all_weights {
            let row = kernels.padded(ci.max(co));
            let most = (BLOCK_BYTES / size_of::<f32>() / planes / row).clamp(12, 96);
            // A size for which all register tiles have the same number of rows.
            let rows = kernels.batched_gemm(kernels.width(0, co)).len();
            let even = |tiles: &usize| tiles.is_multiple_of(tiles.div_ceil(rows));
            ((most / 6 * 5..=most).rev().find(even).unwrap_or(most), panels)
        } else {
            let image = tiling.tiles_per_image() * planes * kernels.padded(ci) * size_of::<f32>();
            ((CHUNK_BYTES / image.max(1)).clamp(1, batch.max(1)), panels.div_ceil(2 * threads).clamp(1, 2))
        };
        Winograd {
            g: *g,
            direction,
            kernels,
            t,
            tiling,
            all_weights,
            cached: (all_weights && !trains).then(|| Buffer::new(weights)),
            stale: true,
            block,
            group,
            threads,
        }
    }

    fn compute(&mut self, args: PassArgs<'_>, to: Output<'_>, pool: &Pool, scratch: &mut Scratch) {
        assert!(
            args.x.len() >= args.n * self.tiling.source.iter().product::<usize>() && pool.threads() <= self.threads
        );
        if args.n == 0 {
            return;
        }
        if self.all_weights {
            let cached = self.cached.as_mut().map(Buffer::as_shared);
            self.run_blocks(args, to, pool, scratch, cached);
            self.stale = self.cached.is_none();
        } else {
            self.run_panels(args, to, pool, scratch);
        }
    }

    /// Coefficients of a tile.
    fn planes(&self) -> usize {
        self.t.coefficients * self.t.coefficients
    }

    /// Floats of a transformed tile in a plane of V.
    fn depth(&self) -> usize {
        self.kernels.padded(self.tiling.source[0])
    }

    /// Floats of a tile in a plane of M.
    fn columns(&self) -> usize {
        self.kernels.padded(self.tiling.target[0])
    }

    /// Floats of a plane that holds a block's V or, after its GEMM, its M.
    fn block_plane(&self) -> usize {
        Self::plane(self.block, self.depth().max(self.columns()))
    }

    fn panels(&self) -> usize {
        self.tiling.target[0].div_ceil(self.kernels.panel())
    }

    /// Floats of a plane of all weights, `rows` x `columns`.
    fn weight_plane(rows: usize, columns: usize) -> usize {
        rows * columns + CACHE_SET_PADDING
    }

    /// Floats that a plane of `tiles` rows of `row` floats takes.
    fn plane(tiles: usize, row: usize) -> usize {
        whole_lines(tiles * row) + CACHE_SET_PADDING
    }

    /// Tiles of a strip, at most [`STRIP_TILES`] and as even as possible.
    fn strip(tiles: usize) -> usize {
        tiles.div_ceil(tiles.div_ceil(STRIP_TILES).max(1))
    }

    /// Floats of scratch: shared by all threads, and per thread.
    fn layout(&self) -> [usize; 2] {
        let zeros = self.zeros();
        let group = self.group * self.kernels.panel();
        if self.all_weights {
            let u = if self.cached.is_some() {
                0
            } else {
                whole_lines(self.planes() * Self::weight_plane(self.tiling.source[0], self.columns()))
            };
            [zeros + u, (self.planes() + 1) * self.block_plane()]
        } else {
            let tiles = self.block * self.tiling.tiles_per_image();
            let v = self.planes() * Self::plane(tiles, self.depth());
            let u = self.planes() * (self.tiling.source[0] * group + CACHE_SET_PADDING);
            let m = self.planes() * Self::plane(tiles.min(STRIP_TILES), group);
            [zeros + v, whole_lines(u) + m]
        }
    }

    /// Transforms the weights of the panel that starts at column `at`, to `[plane][source channel][width]`.
    ///
    /// # Safety
    /// `u` is valid for the panel in all planes.
    unsafe fn transform_weights(&self, w: &[f32], at: usize, u: *mut f32, plane_step: usize) {
        let (ci, co) = (self.tiling.source[0], self.tiling.target[0]);
        let (start, from_step, to_step) = weight_steps(&self.g, self.direction, 0);
        let width = self.kernels.width(at, co);
        let filters = FilterPanel {
            first: w[start + at * to_step..].as_ptr().cast_mut(),
            steps: [from_step, to_step],
            rows: ci,
            width,
            columns: width.min(co - at),
            rotated180: self.direction == Direction::GradInput,
        };
        unsafe { (self.t.filter)(&filters, u, plane_step) }
    }

    /// Floats of a row of zeros.
    fn zeros(&self) -> usize {
        whole_lines(self.tiling.zero_row_pixels(&self.t) * self.tiling.source[0])
    }

    /// Transforms the `count` tiles of `x` from `first` on to rows of V.
    unsafe fn transform_inputs(
        &self,
        first: usize,
        count: usize,
        x: *const f32,
        zeros: *const f32,
        v: *mut f32,
        plane_step: usize,
    ) {
        for run in self.tiling.runs(first, count) {
            let source = self.tiling.inputs(&run, &self.t, x, zeros);
            let (v_step, channels) = (self.depth(), self.tiling.source[0]);
            let v = v.wrapping_add(run.index * v_step);
            unsafe { (self.t.input)(&source, channels, v, v_step, plane_step, PlaneSet::All) }
        }
    }

    /// Transforms M of the tiles from `first` on back, to the channels `columns` of the output.
    unsafe fn transform_outputs(&self, p: &TileGemm, first: usize, columns: Range<usize>, to: Output<'_>) {
        let (to, columns) = (to.skip_channels(columns.start), columns.len());
        let prefetch = |at: TilePosition| {
            let Some(y) = to.y.filter(|_| p.prefetch.is_null()) else { return };
            self.tiling.prefetch_outputs(at, &self.t, y.at(0), columns);
            if let Some(mask) = to.mask {
                self.tiling.prefetch_outputs(at, &self.t, mask.at(y.at(0)), columns);
            }
        };
        let mut ahead = self.tiling.positions(first).take(p.tiles);
        ahead.by_ref().take(PREFETCH_DISTANCE).for_each(prefetch);
        for run in self.tiling.runs(first, p.tiles) {
            ahead.by_ref().take(run.tiles).for_each(prefetch);
            let y = self.tiling.outputs(&run, &self.t, to.y, 1, to.mask);
            let pooled = self.tiling.outputs(&run, &self.t, to.pooled, 2, None);
            let m = p.m.wrapping_add(run.index * p.m_step);
            unsafe { (self.t.output)(m, p.m_step, p.m_plane_step, run.tiles, &y, &pooled, columns, &to.epilogue) }
        }
    }

    /// M = V U for the columns `columns` of U, at most a group of panels.
    unsafe fn multiply(&self, p: &TileGemm, columns: Range<usize>) {
        let (panel, co) = (self.kernels.panel(), self.tiling.target[0]);
        unsafe {
            // One call for all planes if it finishes each plane before the next: M's planes may overwrite V's.
            let width = self.kernels.width(columns.start, co);
            let [_, _, larger] = self.register_tiles(p.tiles, width);
            if columns.len() <= panel && larger == 0 && self.tiling.source[0] <= DEPTH {
                return self.multiply_planes(p, 0..self.planes(), width, 0);
            }
            for plane in 0..self.planes() {
                for at in columns.clone().step_by(panel) {
                    self.multiply_planes(p, plane..plane + 1, self.kernels.width(at, co), at - columns.start);
                }
            }
        }
    }

    /// Divides `tiles` rows into register tiles as evenly as possible, as small ones do not fill the pipeline: how many, the
    /// rows of each, and how many have one more.
    fn register_tiles(&self, tiles: usize, width: usize) -> [usize; 3] {
        let count = tiles.div_ceil(self.kernels.batched_gemm(width).len());
        [count, tiles / count, tiles % count]
    }

    /// M = V U for the planes `planes` and the panel that starts at column `column` of M.
    unsafe fn multiply_planes(&self, p: &TileGemm, planes: Range<usize>, width: usize, column: usize) {
        let kernels = self.kernels.batched_gemm(width);
        let ci = self.tiling.source[0];
        let plane_strides = [p.v_plane_step, p.u_plane_step, p.m_plane_step];
        let first = plane_strides.map(|step| planes.start * step);
        let (v, u) = (p.v.wrapping_add(first[0]), p.u.wrapping_add(first[1] + column * ci));
        let m = p.m.wrapping_add(first[2] + column);
        let [count, rows, larger] = self.register_tiles(p.tiles, width);
        for depth in (0..ci).step_by(DEPTH) {
            let mut t = BatchedGemm {
                a: v.wrapping_add(depth),
                a_step: p.v_step,
                b: u.wrapping_add(depth * width),
                c: m,
                c_step: p.m_step,
                k: DEPTH.min(ci - depth),
                accumulate: depth > 0,
                tiles: larger,
                planes: planes.len(),
                plane_strides,
                prefetch: p.prefetch,
            };
            unsafe {
                if larger > 0 {
                    kernels[rows](&t);
                }
                t.a = t.a.wrapping_add(larger * (rows + 1) * t.a_step);
                t.c = t.c.wrapping_add(larger * (rows + 1) * t.c_step);
                t.tiles = count - larger;
                kernels[rows - 1](&t);
            }
        }
    }

    /// What to prefetch during the GEMM of the `tiles` tiles from `first` on: the next block's inputs and this one's outputs.
    fn prefetch_queue(&self, first: usize, tiles: usize, total: usize, x: &[f32], to: Output<'_>) -> PrefetchQueue {
        let mut queue = PrefetchQueue::new();
        let next = first + tiles;
        let (start, floats) =
            self.tiling.covered_floats(self.tiling.source, &self.t, next, self.block.min(total - next));
        queue.push(x.as_ptr().wrapping_add(start), floats);
        if let Some(y) = to.y {
            let (start, floats) = self.tiling.covered_floats(self.tiling.target, &self.t, first, tiles);
            let y = y.at(start).cast_const();
            if let Some(mask) = to.mask {
                queue.push(mask.at(y), floats);
            }
            queue.push(y, floats);
        }
        let width = self.kernels.width(0, self.tiling.target[0]);
        let rows = tiles.div_ceil(self.kernels.batched_gemm(width).len());
        queue.spread_over(self.planes() * rows * self.panels() * self.tiling.source[0].div_ceil(DEPTH));
        queue
    }

    /// Transforms all weights, then computes block after block of tiles, each from source to target within a thread's L2.
    fn run_blocks(
        &self,
        args: PassArgs<'_>,
        y: Output<'_>,
        pool: &Pool,
        scratch: &mut Scratch,
        cached: Option<SharedPtr>,
    ) {
        let (panel, co) = (self.kernels.panel(), self.tiling.target[0]);
        let ci = self.tiling.source[0];
        let [shared, own] = self.layout();
        let zeros = scratch.take(shared + own * self.threads);
        let slots = zeros.skip(shared);
        let zero_len = self.zeros();
        let u = cached.unwrap_or(zeros.skip(zero_len));
        let u_plane_step = Self::weight_plane(ci, self.columns());
        let this = self;
        if self.stale {
            pool.run(self.panels(), |index| {
                let at = index * panel;
                // SAFETY: only this task writes the panel.
                unsafe { this.transform_weights(args.w, at, u.at(at * ci), u_plane_step) };
            });
        }
        // SAFETY: no task runs.
        unsafe { zeros.at(0).write_bytes(0, zero_len) };
        let total = args.n * this.tiling.tiles_per_image();
        let (v_step, m_step, plane_step) = (this.depth(), this.columns(), this.block_plane());
        pool.run(total.div_ceil(this.block), |task| {
            let first = task * this.block;
            let tiles = this.block.min(total - first);
            // M lies one plane before V: a plane of M overwrites the plane of V that has been read before, so that a block
            // takes no more cache than its tiles do.
            let m = slots.at(pool.thread_index() * own);
            let v = m.wrapping_add(plane_step);
            // SAFETY: only this thread uses the slot, and only this task writes the target pixels.
            unsafe {
                this.transform_inputs(first, tiles, args.x.as_ptr(), zeros.at(0), v, plane_step);
                let mut queue = this.prefetch_queue(first, tiles, total, args.x, y);
                let u = u.at(0);
                let gemm = TileGemm {
                    v,
                    v_plane_step: plane_step,
                    u,
                    u_plane_step,
                    v_step,
                    m,
                    m_plane_step: plane_step,
                    m_step,
                    tiles,
                    prefetch: &mut queue,
                };
                this.multiply(&gemm, 0..co);
                this.transform_outputs(&gemm, first, 0..co, y);
            }
        });
    }

    /// Transforms all tiles of a chunk of images, then computes panel by panel: weights, GEMM, outputs.
    fn run_panels(&self, args: PassArgs<'_>, y: Output<'_>, pool: &Pool, scratch: &mut Scratch) {
        let (this, panel, co) = (self, self.kernels.panel(), self.tiling.target[0]);
        let [shared, own] = this.layout();
        let zeros = scratch.take(shared + own * this.threads);
        let (v, slots) = (zeros.skip(this.zeros()), zeros.skip(shared));
        // SAFETY: no task runs.
        unsafe { zeros.at(0).write_bytes(0, this.zeros()) };
        let source_len = this.tiling.source.iter().product::<usize>();
        let target_len = this.tiling.target.iter().product::<usize>();
        let (v_step, m_step) = (this.depth(), this.group * panel);
        for first in (0..args.n).step_by(this.block) {
            let tiles = this.block.min(args.n - first) * this.tiling.tiles_per_image();
            let (x, y) = (&args.x[first * source_len..], y.skip_floats(first * target_len, first * target_len / 4));
            let v_plane_step = Self::plane(tiles, v_step);
            const TASK_TILES: usize = 8;
            pool.run(tiles.div_ceil(TASK_TILES), |task| {
                let first = task * TASK_TILES;
                let v = v.at(first * v_step);
                let count = TASK_TILES.min(tiles - first);
                // SAFETY: only this task writes these rows of V.
                unsafe { this.transform_inputs(first, count, x.as_ptr(), zeros.at(0), v, v_plane_step) };
            });
            let strip = Self::strip(tiles);
            let m_plane_step = Self::plane(strip, m_step);
            let u_plane_step = this.tiling.source[0] * m_step + CACHE_SET_PADDING;
            pool.run(co.div_ceil(m_step), |task| {
                let start = task * m_step;
                let end = co.min(start + m_step);
                let u = slots.at(pool.thread_index() * own);
                let m = u.wrapping_add(whole_lines(this.planes() * u_plane_step));
                // SAFETY: only this thread uses the slot, and only this task writes the target channels.
                unsafe {
                    for at in (start..end).step_by(panel) {
                        let to = u.add((at - start) * this.tiling.source[0]);
                        this.transform_weights(args.w, at, to, u_plane_step);
                    }
                    for from in (0..tiles).step_by(strip) {
                        let count = strip.min(tiles - from);
                        let v = v.at(from * v_step);
                        let gemm = TileGemm {
                            v,
                            v_plane_step,
                            u,
                            u_plane_step,
                            v_step,
                            m,
                            m_plane_step,
                            m_step,
                            tiles: count,
                            prefetch: std::ptr::null_mut(),
                        };
                        this.multiply(&gemm, start..end);
                        this.transform_outputs(&gemm, from, start..end, y);
                    }
                }
            });
        }
    }
}

impl Pass for Winograd {
    fn run(&mut self, args: PassArgs<'_>, y: &mut [f32], pool: &Pool, scratch: &mut Scratch) {
        assert!(y.len() >= args.n * self.tiling.target.iter().product::<usize>());
        let (epilogue, mask) = args.epilogue_and_mask(self.tiling.target[0], y);
        self.compute(args, Output { y: Some(SharedPtr::of(y)), pooled: None, epilogue, mask }, pool, scratch);
    }

    fn supports_pooling(&self) -> bool {
        self.tiling.target[1].is_multiple_of(2) && self.tiling.target[2].is_multiple_of(2)
    }

    fn run_pooled(
        &mut self,
        args: PassArgs<'_>,
        y: &mut [f32],
        pooled: &mut [f32],
        pool: &Pool,
        scratch: &mut Scratch,
    ) {
        let target_len = self.tiling.target.iter().product::<usize>();
        assert!(self.supports_pooling() && args.mask.is_none() && pooled.len() >= args.n * target_len / 4);
        assert!(y.is_empty() || y.len() >= args.n * target_len);
        let (epilogue, mask) = args.epilogue_and_mask(self.tiling.target[0], y);
        let y = (!y.is_empty()).then(|| SharedPtr::of(y));
        self.compute(args, Output { y, pooled: Some(SharedPtr::of(pooled)), epilogue, mask }, pool, scratch);
    }

    fn weights_changed(&mut self) {
        self.stale = true;
    }

    fn scratch_bytes(&self) -> usize {
        let [shared, own] = self.layout();
        (shared + own * self.threads) * size_of::<f32>()
    }

    fn packed_bytes(&self) -> usize {
        self.cached.as_ref().map_or(0, Buffer::bytes)
    }
}
