//! Optimiser steps, by PyTorch's fused kernels.

use nettriage_engine::{Optimizer, OptimizerMemory};

use crate::abi::Argument::{Bool, Float, Int, None, Some as Given, Tensor as T, Tensors};
use crate::abi::Tensor;
use crate::parameters::{Parameter, Parameters};
use crate::{Result, Torch};

/// Applies an [`Optimizer`] and counts its steps.
pub(crate) struct Updater {
    rule: Optimizer,
    /// Whether weights of one axis decay.
    decay_all: bool,
    steps: u64,
}

impl Updater {
    /// For the trainable weights of `parameters`, whose state it allocates.
    pub fn new(rule: Optimizer, decay_all: bool, parameters: &mut Parameters) -> Result<Updater> {
        let (first, second) = match rule {
            Optimizer::Sgd { momentum, .. } => (momentum != 0.0, false),
            Optimizer::AdamW { .. } => (true, true),
        };
        for parameter in parameters.trainable_mut() {
            parameter.first = first.then(|| parameter.value.zeros_like()).transpose()?;
            parameter.second = second.then(|| parameter.value.zeros_like()).transpose()?;
        }
        Ok(Updater { rule, decay_all, steps: 0 })
    }

    /// One step with the given learning rate, after scaling gradients whose global norm exceeds `clip` down to it.
    pub fn step(&mut self, torch: &Torch, parameters: &Parameters, rate: f32, clip: Option<f32>) -> Result<()> {
        self.steps += 1;
        let trained: Vec<Trained<'_>> = parameters.trainable().filter_map(Trained::of).collect();
        if trained.is_empty() {
            return Ok(());
        }
        if let Some(clip) = clip {
            let gradients: Vec<&Tensor> = trained.iter().map(|trained| trained.gradient).collect();
            let scale = clip_scale(torch, &gradients, clip)?;
            let [] =
                gradients[0].library().call(c"aten::_foreach_mul_", c"Tensor", &[Tensors(&gradients), T(&scale)])?;
        }
        let (decaying, others): (Vec<_>, Vec<_>) =
            trained.into_iter().partition(|trained| self.decay_all || trained.axes > 1);
        self.update(torch, &decaying, rate, true)?;
        self.update(torch, &others, rate, false)
    }

    /// Updates some weights: either all decay, or none does.
    fn update(&self, torch: &Torch, trained: &[Trained<'_>], rate: f32, decays: bool) -> Result<()> {
        let Some(any) = trained.first() else { return Ok(()) };
        let library = any.value.library();
        let values: Vec<&Tensor> = trained.iter().map(|trained| trained.value).collect();
        let gradients: Vec<&Tensor> = trained.iter().map(|trained| trained.gradient).collect();
        let first: Vec<&Tensor> = trained.iter().filter_map(|trained| trained.first).collect();
        let second: Vec<&Tensor> = trained.iter().filter_map(|trained| trained.second).collect();
        let rate = Float(f64::from(rate));
        let decay = |weight_decay: f32| Float(if decays { f64::from(weight_decay) } else { 0.0 });
        match self.rule {
            Optimizer::Sgd { momentum, nesterov, weight_decay } => {
                // The velocity starts at zero, so the first step is as the others.
                let arguments = [
                    Tensors(&values),
                    Tensors(&gradients),
                    Tensors(&first),
                    decay(weight_decay),
                    Float(f64::from(momentum)),
                    rate,
                    Float(0.0),
                    Bool(nesterov),
                    Bool(false),
                    Bool(false),
                    None,
                    None,
                ];
                let [] = library.call(c"aten::_fused_sgd_", c"", &arguments)?;
            }
            Optimizer::AdamW { betas: (b1, b2), eps, weight_decay } => {
                let steps = torch.full(&[], self.steps as f64)?;
                let all: Vec<&Tensor> = values.iter().map(|_| &steps).collect();
                let arguments = [
                    Tensors(&values),
                    Tensors(&gradients),
                    Tensors(&first),
                    Tensors(&second),
                    Tensors(&[]),
                    Tensors(&all),
                    rate,
                    Float(f64::from(b1)),
                    Float(f64::from(b2)),
                    decay(weight_decay),
                    Float(f64::from(eps)),
                    Bool(false),
                    Bool(false),
                    None,
                    None,
                ];
                let [] = library.call(c"aten::_fused_adamw_", c"", &arguments)?;
            }
        }
        Ok(())
    }

    /// What is remembered between steps.
    pub fn memory(&self, parameters: &Parameters) -> Result<OptimizerMemory> {
        Ok(OptimizerMemory {
            steps: self.steps,
            first: parameters.export_state(|parameter| parameter.first.as_ref())?,
            second: parameters.export_state(|parameter| parameter.second.as_ref())?,
        })
    }

    /// Continues from what [`Updater::memory`] returned; on an error nothing changes.
    pub fn restore(&mut self, torch: &Torch, parameters: &Parameters, memory: &OptimizerMemory) -> Result<()> {
        parameters.check_state(&memory.first, |parameter| parameter.first.as_ref())?;
        parameters.check_state(&memory.second, |parameter| parameter.second.as_ref())?;
        parameters.import_state(torch, &memory.first, |parameter| parameter.first.as_ref())?;
        parameters.import_state(torch, &memory.second, |parameter| parameter.second.as_ref())?;
        self.steps = memory.steps;
        Ok(())
    }
}

/// A weight that a step updates.
struct Trained<'p> {
    value: &'p Tensor,
    gradient: &'p Tensor,
    first: Option<&'p Tensor>,
    second: Option<&'p Tensor>,
    axes: usize,
}

impl Trained<'_> {
    /// None if no loss has reached the weight.
    fn of(parameter: &Parameter) -> Option<Trained<'_>> {
        Some(Trained {
            value: &parameter.value,
            gradient: parameter.gradient.as_ref()?,
            first: parameter.first.as_ref(),
            second: parameter.second.as_ref(),
            axes: parameter.shape.len(),
        })
    }
}

/// min(1, `clip` / (norm + 1e-6)), as `torch.nn.utils.clip_grad_norm_`, on the device. A NaN norm makes it NaN too, so that
/// divergence stays visible.
fn clip_scale(torch: &Torch, gradients: &[&Tensor], clip: f32) -> Result<Tensor> {
    let squares = gradients.iter().map(|gradient| {
        // Any order of the elements will do, so the view has that of the memory.
        let flat = gradient.one(c"aten::ravel", &[T(gradient)])?;
        flat.one(c"aten::dot", &[T(&flat), T(&flat)])?.reshape(&[1])
    });
    let squares = squares.collect::<Result<Vec<_>>>()?;
    let squares: Vec<&Tensor> = squares.iter().collect();
    let all = squares[0].one(c"aten::cat", &[Tensors(&squares), Int(0)])?;
    let norm = all.sum(&[0], false)?.map(c"aten::sqrt")?;
    let scale = torch.scalar(f64::from(clip))?.div(&norm.add(&torch.scalar(1e-6)?)?)?;
    let one = torch.full(&[], 1.0)?;
    scale.overload(c"aten::clamp", c"Tensor", &[T(&scale), None, Given(&T(&one))])
}
