//! The forward pass and the input's gradient, which is a forward pass with the weight turned around.

use std::ops::Range;

use super::{GAP, Place, Tiling};
use crate::conv::Geometry;
use crate::conv::pass::{Io, Pass, SharedFinish, Way, weight_steps};
use crate::memory::{Buffer, Raw, Scratch, lines};
use crate::pool::Pool;
use crate::simd::Kernels;
use crate::simd::tile::{Matrix, Soon};
use crate::simd::transform::{Filters, Part, Transforms};

/// Transformed weights up to this size are made at once; larger ones panel by panel where they are used.
const WHOLE_BYTES: usize = 5 << 20;

/// What a thread's transformed tiles and sums may take beside weights made at once: most of a second-level cache.
const BLOCK_BYTES: usize = 400 << 10;

/// Transformed tiles held at a time when weights are made panel by panel.
const CHUNK_BYTES: usize = 16 << 20;

/// Tiles between whose sums and outputs a panel's work alternates when weights are made panel by panel.
const STRIP_TILES: usize = 64;

/// Tiles between the one whose outputs are written and the one whose are asked for: far enough to be there in time, near
/// enough to be there still.
const AHEAD: usize = 4;

/// Depth of a product up to which its panel of weights stays in the first cache.
const DEPTH: usize = 256;

/// A bilinear algorithm for one way of one geometry.
pub(in super::super) struct Winograd {
    g: Geometry,
    way: Way,
    kernels: &'static Kernels,
    t: Transforms,
    tiling: Tiling,
    /// Whether all transformed weights are there at a time, as `[number][panel][source channel][width]`.
    whole: bool,
    /// These, where they serve more than one call; weights that train do not, and all layers' share one place in scratch,
    /// which stays in a cache.
    kept: Option<Buffer>,
    stale: bool,
    /// Tiles of a thread's block (weights made at once), or images of a chunk.
    block: usize,
    /// Panels of a task's columns.
    group: usize,
    threads: usize,
}

/// The product of some tiles and some panels: the planes of V, U and M and what they share.
struct Product {
    v: *const f32,
    v_plane: usize,
    u: *const f32,
    u_plane: usize,
    /// Distance between tiles in V.
    v_step: usize,
    m: *mut f32,
    m_plane: usize,
    m_step: usize,
    tiles: usize,
    /// What is asked for meanwhile; null where that is left to the inputs and outputs themselves.
    soon: *mut Soon,
}

/// The pictures that are written: whole, pooled or both.
#[derive(Clone, Copy)]
struct Output {
    y: Option<Raw>,
    pooled: Option<Raw>,
}

impl Output {
    /// The same from channel `channel` on.
    fn skip(self, channel: usize) -> Output {
        self.images(channel, channel)
    }

    /// The same, so many floats further on.
    fn images(self, floats: usize, pooled: usize) -> Output {
        Output { y: self.y.map(|y| y.skip(floats)), pooled: self.pooled.map(|p| p.skip(pooled)) }
    }
}

impl Winograd {
    pub fn new(
        g: &Geometry,
        way: Way,
        batch: usize,
        threads: usize,
        kernels: &'static Kernels,
        t: Transforms,
        trains: bool,
    ) -> Winograd {
        let tiling = Tiling::new(g, way, &t);
        let (ci, co) = (tiling.source[0], tiling.target[0]);
        let numbers = t.products * t.products;
        let panels = co.div_ceil(kernels.panel());
        let weights = numbers * Self::weight_plane(ci, kernels.padded(co));
        let whole = weights * size_of::<f32>() <= WHOLE_BYTES;
        let (block, group) = if whole {
            let row = kernels.padded(ci.max(co));
            let most = (BLOCK_BYTES / size_of::<f32>() / numbers / row).clamp(12, 96);
            // All calls alike.
            let rows = kernels.matrix(kernels.width(0, co)).len();
            let even = |tiles: &usize| tiles.is_multiple_of(tiles.div_ceil(rows));
            ((most / 6 * 5..=most).rev().find(even).unwrap_or(most), panels)
        } else {
            let image = tiling.count() * numbers * kernels.padded(ci) * size_of::<f32>();
            ((CHUNK_BYTES / image.max(1)).clamp(1, batch.max(1)), panels.div_ceil(2 * threads).clamp(1, 2))
        };
        Winograd {
            g: *g,
            way,
            kernels,
            t,
            tiling,
            whole,
            kept: (whole && !trains).then(|| Buffer::new(weights)),
            stale: true,
            block,
            group,
            threads,
        }
    }

    fn write(&mut self, io: Io<'_>, to: Output, finish: SharedFinish, pool: &Pool, scratch: &mut Scratch) {
        assert!(io.x.len() >= io.n * self.tiling.source.iter().product::<usize>() && pool.threads() <= self.threads);
        if io.n == 0 {
            return;
        }
        if self.whole {
            let kept = self.kept.as_mut().map(Buffer::raw);
            self.run_whole(io, to, finish, pool, scratch, kept);
            self.stale = self.kept.is_none();
        } else {
            self.run_passing(io, to, finish, pool, scratch);
        }
    }

    fn numbers(&self) -> usize {
        self.t.products * self.t.products
    }

    /// Floats of a transformed tile's channels.
    fn depth(&self) -> usize {
        self.kernels.padded(self.tiling.source[0])
    }

    fn columns(&self) -> usize {
        self.kernels.padded(self.tiling.target[0])
    }

    /// Floats of a plane of a block's transformed tiles or, once these have served, of their sums.
    fn slot(&self) -> usize {
        Self::plane(self.block, self.depth().max(self.columns()))
    }

    fn panels(&self) -> usize {
        self.tiling.target[0].div_ceil(self.kernels.panel())
    }

    /// Floats of a plane of weights made at once, `rows` x `columns`.
    fn weight_plane(rows: usize, columns: usize) -> usize {
        rows * columns + GAP
    }

    /// Floats that a plane of `tiles` rows of `row` floats takes.
    fn plane(tiles: usize, row: usize) -> usize {
        lines(tiles * row) + GAP
    }

    /// Most tiles between sums and outputs where weights are made panel by panel.
    fn strip(tiles: usize) -> usize {
        tiles.div_ceil(tiles.div_ceil(STRIP_TILES).max(1))
    }

    /// Floats of scratch: shared by all threads, and for each.
    fn layout(&self) -> [usize; 2] {
        let zeros = self.zeros();
        let group = self.group * self.kernels.panel();
        if self.whole {
            let u = if self.kept.is_some() {
                0
            } else {
                lines(self.numbers() * Self::weight_plane(self.tiling.source[0], self.columns()))
            };
            [zeros + u, (self.numbers() + 1) * self.slot()]
        } else {
            let tiles = self.block * self.tiling.count();
            let v = self.numbers() * Self::plane(tiles, self.depth());
            let u = self.numbers() * (self.tiling.source[0] * group + GAP);
            let m = self.numbers() * Self::plane(tiles.min(STRIP_TILES), group);
            [zeros + v, lines(u) + m]
        }
    }

    /// Transforms the weights of the panel that starts at column `at`: `[number][source channel][width]`, numbers `plane` apart.
    ///
    /// # Safety
    /// `u` has room for the panel.
    unsafe fn weights(&self, w: &[f32], at: usize, u: *mut f32, plane: usize) {
        let (ci, co) = (self.tiling.source[0], self.tiling.target[0]);
        let (start, from_step, to_step) = weight_steps(&self.g, self.way, 0);
        let width = self.kernels.width(at, co);
        let filters = Filters {
            first: w[start + at * to_step..].as_ptr().cast_mut(),
            steps: [from_step, to_step],
            rows: ci,
            width,
            columns: width.min(co - at),
            turned: self.way == Way::GradInput,
        };
        unsafe { (self.t.filter)(&filters, u, plane) }
    }

    /// Floats of a row of zeros.
    fn zeros(&self) -> usize {
        lines(self.tiling.zeros(&self.t) * self.tiling.source[0])
    }

    /// Transforms `count` tiles of `x` from `first` on to rows of V.
    unsafe fn inputs(&self, first: usize, count: usize, x: *const f32, zeros: *const f32, v: *mut f32, plane: usize) {
        for run in self.tiling.runs(first, count) {
            let source = self.tiling.inputs(&run, &self.t, x, zeros);
            let (v_step, channels) = (self.depth(), self.tiling.source[0]);
            unsafe { (self.t.input)(&source, channels, v.add(run.before * v_step), v_step, plane, Part::Whole) }
        }
    }

    /// Transforms the sums of the tiles from `first` on to the columns `columns` of the images that `to` starts with.
    unsafe fn outputs(&self, p: &Product, first: usize, columns: Range<usize>, to: Output, finish: SharedFinish) {
        let finish = finish.get().advance(columns.start);
        let (to, columns) = (to.skip(columns.start), columns.len());
        let expect = |at: Place| {
            let Some(y) = to.y.filter(|_| p.soon.is_null()) else { return };
            self.tiling.expect_outputs(at, &self.t, y.at(0), columns);
            if !finish.mask.is_null() {
                self.tiling.expect_outputs(at, &self.t, finish.beside(y.at(0)), columns);
            }
        };
        let mut ahead = self.tiling.places(first).take(p.tiles);
        ahead.by_ref().take(AHEAD).for_each(expect);
        for run in self.tiling.runs(first, p.tiles) {
            ahead.by_ref().take(run.tiles).for_each(expect);
            let y = self.tiling.outputs(&run, &self.t, to.y, 1);
            let pooled = self.tiling.outputs(&run, &self.t, to.pooled, 2);
            let m = p.m.wrapping_add(run.before * p.m_step);
            unsafe { (self.t.output)(m, p.m_step, p.m_plane, run.tiles, &y, &pooled, columns, &finish) }
        }
    }

    /// M = V U for the columns `columns`, at most a group of panels.
    unsafe fn products(&self, p: &Product, columns: Range<usize>) {
        let (panel, co) = (self.kernels.panel(), self.tiling.target[0]);
        unsafe {
            // In one call, where that ends with a number before it begins the next: sums may lie where the number before was.
            let width = self.kernels.width(columns.start, co);
            let [_, _, larger] = self.rows(p.tiles, width);
            if columns.len() <= panel && larger == 0 && self.tiling.source[0] <= DEPTH {
                return self.multiply(p, 0..self.numbers(), width, 0);
            }
            for number in 0..self.numbers() {
                for at in columns.clone().step_by(panel) {
                    self.multiply(p, number..number + 1, self.kernels.width(at, co), at - columns.start);
                }
            }
        }
    }

    /// How many calls' tiles `tiles` rows of a product fall into, the rows of each, and how many have one more: as even as can
    /// be, so that none is too small to keep the processor busy.
    fn rows(&self, tiles: usize, width: usize) -> [usize; 3] {
        let count = tiles.div_ceil(self.kernels.matrix(width).len());
        [count, tiles / count, tiles % count]
    }

    /// M = V U for the numbers `numbers` and the panel that starts at column `column` of the product's.
    unsafe fn multiply(&self, p: &Product, numbers: Range<usize>, width: usize, column: usize) {
        let kernels = self.kernels.matrix(width);
        let ci = self.tiling.source[0];
        let plane = [p.v_plane, p.u_plane, p.m_plane];
        let first = plane.map(|plane| numbers.start * plane);
        let (v, u) = (p.v.wrapping_add(first[0]), p.u.wrapping_add(first[1] + column * ci));
        let m = p.m.wrapping_add(first[2] + column);
        let [count, rows, larger] = self.rows(p.tiles, width);
        for depth in (0..ci).step_by(DEPTH) {
            let mut t = Matrix {
                a: v.wrapping_add(depth),
                a_step: p.v_step,
                b: u.wrapping_add(depth * width),
                c: m,
                c_step: p.m_step,
                k: DEPTH.min(ci - depth),
                add: depth > 0,
                tiles: larger,
                planes: numbers.len(),
                plane,
                soon: p.soon,
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

    /// What is asked for while the products of `tiles` tiles from `first` on are made: what the next block reads, and where
    /// this one is written to.
    fn soon(&self, first: usize, tiles: usize, total: usize, io: &Io<'_>, to: Output, finish: SharedFinish) -> Soon {
        let mut soon = Soon::new();
        let next = first + tiles;
        let (start, floats) = self.tiling.floats(self.tiling.source, &self.t, next, self.block.min(total - next));
        soon.add(io.x.as_ptr().wrapping_add(start), floats);
        if let Some(y) = to.y {
            let (start, floats) = self.tiling.floats(self.tiling.target, &self.t, first, tiles);
            let y = y.at(start).cast_const();
            if !finish.get().mask.is_null() {
                soon.add(finish.get().beside(y), floats);
            }
            soon.add(y, floats);
        }
        let width = self.kernels.width(0, self.tiling.target[0]);
        let rows = tiles.div_ceil(self.kernels.matrix(width).len());
        soon.within(self.numbers() * rows * self.panels() * self.tiling.source[0].div_ceil(DEPTH));
        soon
    }

    /// All weights once, then blocks of tiles, each from source to target within a thread's cache.
    fn run_whole(
        &self,
        io: Io<'_>,
        y: Output,
        finish: SharedFinish,
        pool: &Pool,
        scratch: &mut Scratch,
        kept: Option<Raw>,
    ) {
        let (panel, co) = (self.kernels.panel(), self.tiling.target[0]);
        let ci = self.tiling.source[0];
        let [shared, own] = self.layout();
        let zeros = scratch.take(shared + own * self.threads);
        let slots = zeros.skip(shared);
        let zero_len = self.zeros();
        let u = kept.unwrap_or(zeros.skip(zero_len));
        let u_plane = Self::weight_plane(ci, self.columns());
        let this = self;
        if self.stale {
            pool.run(self.panels(), |index| {
                let at = index * panel;
                // SAFETY: the panel is this task's.
                unsafe { this.weights(io.w, at, u.at(at * ci), u_plane) };
            });
        }
        // SAFETY: no task runs.
        unsafe { zeros.at(0).write_bytes(0, zero_len) };
        let total = io.n * this.tiling.count();
        let (v_step, m_step, plane) = (this.depth(), this.columns(), this.slot());
        pool.run(total.div_ceil(this.block), |task| {
            let first = task * this.block;
            let tiles = this.block.min(total - first);
            // A number's sums lie where the number before was read: none is written over before it has served, and a block
            // takes no more of the cache than its tiles do.
            let m = slots.at(pool.worker() * own);
            let v = m.wrapping_add(plane);
            // SAFETY: the slot is this thread's, the target pixels are this task's.
            unsafe {
                this.inputs(first, tiles, io.x.as_ptr(), zeros.at(0), v, plane);
                let mut soon = this.soon(first, tiles, total, &io, y, finish);
                let [v_plane, m_plane] = [plane; 2];
                let u = u.at(0);
                let product = Product { v, v_plane, v_step, u, u_plane, m, m_plane, m_step, tiles, soon: &mut soon };
                this.products(&product, 0..co);
                this.outputs(&product, first, 0..co, y, finish);
            }
        });
    }

    /// All tiles of a chunk of images first, then panel by panel: weights, products, outputs.
    fn run_passing(&self, io: Io<'_>, y: Output, finish: SharedFinish, pool: &Pool, scratch: &mut Scratch) {
        let (this, panel, co) = (self, self.kernels.panel(), self.tiling.target[0]);
        let [shared, own] = this.layout();
        let zeros = scratch.take(shared + own * this.threads);
        let (v, slots) = (zeros.skip(this.zeros()), zeros.skip(shared));
        // SAFETY: no task runs.
        unsafe { zeros.at(0).write_bytes(0, this.zeros()) };
        let source_len = this.tiling.source.iter().product::<usize>();
        let target_len = this.tiling.target.iter().product::<usize>();
        let (v_step, m_step) = (this.depth(), this.group * panel);
        for first in (0..io.n).step_by(this.block) {
            let tiles = this.block.min(io.n - first) * this.tiling.count();
            let (x, y) = (&io.x[first * source_len..], y.images(first * target_len, first * target_len / 4));
            let v_plane = Self::plane(tiles, v_step);
            const SOME: usize = 8;
            pool.run(tiles.div_ceil(SOME), |task| {
                let first = task * SOME;
                let v = v.at(first * v_step);
                // SAFETY: the tiles' rows of V are this task's.
                unsafe { this.inputs(first, SOME.min(tiles - first), x.as_ptr(), zeros.at(0), v, v_plane) };
            });
            let strip = Self::strip(tiles);
            let m_plane = Self::plane(strip, m_step);
            let u_plane = this.tiling.source[0] * m_step + GAP;
            pool.run(co.div_ceil(m_step), |task| {
                let start = task * m_step;
                let end = co.min(start + m_step);
                let u = slots.at(pool.worker() * own);
                let m = u.wrapping_add(lines(this.numbers() * u_plane));
                // SAFETY: the slot is this thread's, the target columns are this task's.
                unsafe {
                    for at in (start..end).step_by(panel) {
                        let to = u.add((at - start) * this.tiling.source[0]);
                        this.weights(io.w, at, to, u_plane);
                    }
                    for from in (0..tiles).step_by(strip) {
                        let count = strip.min(tiles - from);
                        let v = v.at(from * v_step);
                        let soon = std::ptr::null_mut();
                        let product =
                            Product { v, v_plane, v_step, u, u_plane, m, m_plane, m_step, tiles: count, soon };
                        this.products(&product, start..end);
                        this.outputs(&product, from, start..end, y, finish);
                    }
                }
            });
        }
    }
}

impl Pass for Winograd {
    fn run(&mut self, io: Io<'_>, y: &mut [f32], pool: &Pool, scratch: &mut Scratch) {
        assert!(y.len() >= io.n * self.tiling.target.iter().product::<usize>());
        let finish = io.finish(self.tiling.target[0], y);
        self.write(io, Output { y: Some(Raw::of(y)), pooled: None }, finish, pool, scratch);
    }

    fn pools(&self) -> bool {
        self.tiling.target[1].is_multiple_of(2) && self.tiling.target[2].is_multiple_of(2)
    }

    fn run_pooled(&mut self, io: Io<'_>, y: &mut [f32], pooled: &mut [f32], pool: &Pool, scratch: &mut Scratch) {
        let target_len = self.tiling.target.iter().product::<usize>();
        assert!(self.pools() && io.mask.is_none() && pooled.len() >= io.n * target_len / 4);
        assert!(y.is_empty() || y.len() >= io.n * target_len);
        let finish = io.finish(self.tiling.target[0], y);
        let y = (!y.is_empty()).then(|| Raw::of(y));
        self.write(io, Output { y, pooled: Some(Raw::of(pooled)) }, finish, pool, scratch);
    }

    fn weights_changed(&mut self) {
        self.stale = true;
    }

    fn scratch_bytes(&self) -> usize {
        let [shared, own] = self.layout();
        (shared + own * self.threads) * size_of::<f32>()
    }

    fn packed_bytes(&self) -> usize {
        self.kept.as_ref().map_or(0, Buffer::bytes)
    }
}
