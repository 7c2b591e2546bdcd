//! Optimiser steps, by PyTorch's fused kernels.

use nettriage_engine::Optimizer;

use crate::abi::Argument::{Bool, Float, Int, None, Some as Given, Tensor as T, Tensors};
use crate::abi::Tensor;
use crate::parameters::{Parameter, Parameters};
use crate::{Result, Torch};

/// Applies an [`Optimizer`].
pub(crate) struct Updater {
    rule: Optimizer,
    /// Steps so far, as AdamW's kernel takes it.
    steps: Option<Tensor>,
}

impl Updater {
    /// For the trainable weights of `parameters`, whose state it allocates.
    pub fn new(torch: &Torch, rule: Optimizer, parameters: &mut Parameters) -> Result<Updater> {
        let (first, second) = match rule {
            Optimizer::Sgd { momentum, .. } => (momentum != 0.0, false),
            Optimizer::AdamW { .. } => (true, true),
        };
        for parameter in parameters.trainable_mut() {
            parameter.first = first.then(|| parameter.value.zeros_like()).transpose()?;
            parameter.second = second.then(|| parameter.value.zeros_like()).transpose()?;
        }
        let steps = second.then(|| torch.full(&[], 0.0)).transpose()?;
        Ok(Updater { rule, steps })
    }

    /// One step with the given learning rate, after scaling gradients whose global norm exceeds `clip` down to it.
    pub fn step(&mut self, torch: &Torch, parameters: &mut Parameters, rate: f32, clip: Option<f32>) -> Result<()> {
        let trained: Vec<&Parameter> = parameters.trainable_mut().map(|parameter| &*parameter).collect();
        let trained: Vec<&Parameter> = trained.into_iter().filter(|parameter| parameter.gradient.is_some()).collect();
        let Some(any) = trained.first() else { return Ok(()) };
        let library = any.value.library();
        let values: Vec<&Tensor> = trained.iter().map(|parameter| &parameter.value).collect();
        let gradients: Vec<&Tensor> = trained.iter().filter_map(|parameter| parameter.gradient.as_ref()).collect();
        let first: Vec<&Tensor> = trained.iter().filter_map(|parameter| parameter.first.as_ref()).collect();
        let second: Vec<&Tensor> = trained.iter().filter_map(|parameter| parameter.second.as_ref()).collect();
        if let Some(clip) = clip {
            let scale = clip_scale(torch, &gradients, clip)?;
            let [] = library.call(c"aten::_foreach_mul_", c"Tensor", &[Tensors(&gradients), T(&scale)])?;
        }
        let rate = Float(f64::from(rate));
        match self.rule {
            Optimizer::Sgd { momentum, nesterov, weight_decay } => {
                // The velocity starts at zero, so the first step is as the others.
                let arguments = [
                    Tensors(&values),
                    Tensors(&gradients),
                    Tensors(&first),
                    Float(f64::from(weight_decay)),
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
                let steps = self.steps.as_ref().expect("AdamW counts its steps");
                let next = steps.add(&torch.scalar(1.0)?)?;
                let all: Vec<&Tensor> = values.iter().map(|_| &next).collect();
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
                    Float(f64::from(weight_decay)),
                    Float(f64::from(eps)),
                    Bool(false),
                    Bool(false),
                    None,
                    None,
                ];
                let [] = library.call(c"aten::_fused_adamw_", c"", &arguments)?;
                self.steps = Some(next);
            }
        }
        Ok(())
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
