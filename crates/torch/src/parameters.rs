//! The weights of a model on the device, with their gradients and the optimiser's state.

use std::collections::BTreeMap;

use nettriage_net::{Tensor as Plain, Weights};

use crate::abi::{Format, Tensor};
use crate::device::row_major;
use crate::{Result, Torch};

/// Index of a weight in [`Parameters`].
pub(crate) type ParameterId = usize;

/// A weight or running statistic.
pub(crate) struct Parameter {
    name: String,
    pub shape: Vec<usize>,
    pub value: Tensor,
    /// The order of its elements on the device.
    format: Format,
    pub trains: bool,
    /// Of the last backward pass.
    pub gradient: Option<Tensor>,
    /// Velocity, or first moment.
    pub first: Option<Tensor>,
    /// Second moment.
    pub second: Option<Tensor>,
}

/// The weights of a model, by number.
pub(crate) struct Parameters {
    all: Vec<Parameter>,
    numbers: BTreeMap<String, ParameterId>,
}

impl Parameters {
    /// Those of a network; none trains yet; `format` is the order of a weight's elements on the device.
    pub fn new(torch: &Torch, weights: &Weights, format: impl Fn(&str) -> Format) -> Result<Parameters> {
        let mut all = Vec::with_capacity(weights.len());
        for (name, tensor) in weights {
            let format = if tensor.shape.len() == 4 { format(name) } else { Format::Contiguous };
            let value = torch.upload(&tensor.data, &tensor.shape)?.in_format(format)?;
            let (name, shape) = (name.clone(), tensor.shape.clone());
            all.push(Parameter {
                name,
                shape,
                value,
                format,
                trains: false,
                gradient: None,
                first: None,
                second: None,
            });
        }
        let numbers = all.iter().enumerate().map(|(number, parameter)| (parameter.name.clone(), number)).collect();
        Ok(Parameters { all, numbers })
    }

    /// The number of `<layer>.<parameter>`.
    pub fn find(&self, layer: &str, parameter: &str) -> Option<ParameterId> {
        self.numbers.get(&format!("{layer}.{parameter}")).copied()
    }

    pub fn value(&self, id: ParameterId) -> &Tensor {
        &self.all[id].value
    }

    pub fn set_trainable(&mut self, id: ParameterId) {
        self.all[id].trains = true;
    }

    /// The weight of that full name.
    pub fn named(&self, name: &str) -> Option<&Parameter> {
        self.numbers.get(name).map(|&number| &self.all[number])
    }

    /// The weights that train, in a fixed order.
    pub fn trainable(&self) -> impl Iterator<Item = &Parameter> {
        self.all.iter().filter(|parameter| parameter.trains)
    }

    pub fn trainable_mut(&mut self) -> impl Iterator<Item = &mut Parameter> {
        self.all.iter_mut().filter(|parameter| parameter.trains)
    }

    /// Stores the gradient of a weight, in the type and order of the weight.
    pub fn set_gradient(&mut self, id: ParameterId, gradient: &Tensor) -> Result<()> {
        let parameter = &mut self.all[id];
        let sizes: Vec<i64> = parameter.shape.iter().map(|&size| size as i64).collect();
        let gradient = gradient.float()?.reshape(&sizes)?;
        parameter.gradient = Some(if sizes.len() == 4 { gradient.in_format(parameter.format)? } else { gradient });
        Ok(())
    }

    /// The gradient of a weight that trains, as plain data; zeros if no loss has reached it.
    pub fn gradient(&self, name: &str) -> Result<Option<Plain>> {
        let Some(parameter) = self.named(name).filter(|parameter| parameter.trains) else { return Ok(None) };
        Ok(Some(match &parameter.gradient {
            Some(gradient) => download(gradient, &parameter.shape)?,
            None => Plain::zeros(&parameter.shape),
        }))
    }

    /// A copy of all weights.
    pub fn export(&self) -> Result<Weights> {
        self.all.iter().map(|p| Ok((p.name.clone(), download(&p.value, &p.shape)?))).collect()
    }

    /// Replaces the given weights; nothing changes if one of them does not fit.
    pub fn import(&mut self, torch: &Torch, weights: &Weights) -> Result<()> {
        let mut list = Vec::with_capacity(weights.len());
        for (name, tensor) in weights {
            let refuse = |problem: String| nettriage_engine::Error::Weight { name: name.clone(), problem };
            let &number = self.numbers.get(name).ok_or_else(|| refuse("is none of the network's".into()))?;
            let expected = &self.all[number].shape;
            if *expected != tensor.shape || tensor.data.len() != expected.iter().product::<usize>() {
                return Err(refuse(format!("has shape {:?}, not {expected:?}", tensor.shape)).into());
            }
            list.push((number, tensor));
        }
        for (number, tensor) in list {
            self.all[number].value.copy_from(&torch.upload(&tensor.data, &tensor.shape)?)?;
        }
        Ok(())
    }

    /// A copy of one of the optimiser's state tensors of every trainable weight that has it.
    pub fn export_state(&self, of: fn(&Parameter) -> Option<&Tensor>) -> Result<Weights> {
        let held = self.trainable().filter_map(|parameter| Some((parameter, of(parameter)?)));
        held.map(|(parameter, state)| Ok((parameter.name.clone(), download(state, &parameter.shape)?))).collect()
    }

    /// Whether `state` holds one of the optimiser's state tensors for exactly the trainable weights that have it.
    pub fn check_state(&self, state: &Weights, of: fn(&Parameter) -> Option<&Tensor>) -> Result<()> {
        let fail = |name: &String, problem: &str| {
            Err(nettriage_engine::Error::Weight { name: name.clone(), problem: problem.into() }.into())
        };
        for parameter in self.trainable() {
            let found = state.get(&parameter.name).map(|tensor| &tensor.shape);
            if found != of(parameter).map(|_| &parameter.shape) {
                return fail(&parameter.name, "has another optimiser's state");
            }
        }
        match state.keys().find(|name| !self.named(name).is_some_and(|parameter| parameter.trains)) {
            Some(name) => fail(name, "does not train in this model"),
            None => Ok(()),
        }
    }

    /// Copies a state that [`Parameters::check_state`] accepts.
    pub fn import_state(&self, torch: &Torch, state: &Weights, of: fn(&Parameter) -> Option<&Tensor>) -> Result<()> {
        for parameter in self.trainable() {
            if let (Some(tensor), Some(to)) = (state.get(&parameter.name), of(parameter)) {
                to.copy_from(&torch.upload(&tensor.data, &tensor.shape)?)?;
            }
        }
        Ok(())
    }
}

/// A tensor of the device as plain data.
fn download(tensor: &Tensor, shape: &[usize]) -> Result<Plain> {
    let mut plain = Plain::zeros(shape);
    let sizes: Vec<i64> = shape.iter().map(|&size| size as i64).collect();
    tensor.download(&mut plain.data, &sizes, &row_major(&sizes))?;
    Ok(plain)
}
