//! The weights of a model, their gradients and the optimiser's state, in the layouts of `nettriage_net`.

use std::collections::BTreeMap;

use nettriage_kernels::memory::Buffer;
use nettriage_net::{Tensor, Weights};

use crate::Error;
use crate::optimizer::OptimizerState;

/// Index of a weight in [`Parameters`].
pub(crate) type ParameterId = usize;

/// One weight (or running statistic).
pub(crate) struct Parameter {
    /// `<layer>.<parameter>`.
    pub name: String,
    /// Its shape, as in the network.
    pub shape: Vec<usize>,
    /// Number of elements.
    pub len: usize,
    /// Its elements.
    pub value: Buffer,
    /// dLoss/dValue; empty if it does not train.
    pub gradient: Buffer,
    /// The optimiser's first state (velocity or first moment); may be empty.
    pub first: Buffer,
    /// The optimiser's second state (second moment); may be empty.
    pub second: Buffer,
    /// Whether it trains.
    pub trains: bool,
    /// Incremented on every change of the value, so that packed copies know when they are stale.
    pub version: u64,
}

/// All weights of a network.
pub(crate) struct Parameters {
    list: Vec<Parameter>,
    index: BTreeMap<String, ParameterId>,
}

impl Parameters {
    /// The names and shapes of the network's weights, none of them trainable yet. [`Parameters::allocate`] copies their values.
    pub fn new(weights: &Weights) -> Parameters {
        let mut list = Vec::with_capacity(weights.len());
        let mut index = BTreeMap::new();
        for (name, tensor) in weights {
            index.insert(name.clone(), list.len());
            list.push(Parameter {
                name: name.clone(),
                shape: tensor.shape.clone(),
                len: tensor.data.len(),
                value: Buffer::default(),
                gradient: Buffer::default(),
                first: Buffer::default(),
                second: Buffer::default(),
                trains: false,
                version: 1,
            });
        }
        Parameters { list, index }
    }

    /// The weight `<layer>.<parameter>`, if the network has it.
    pub fn find(&self, layer: &str, parameter: &str) -> Option<ParameterId> {
        self.index.get(&format!("{layer}.{parameter}")).copied()
    }

    /// The weight of that full name.
    pub fn named(&self, name: &str) -> Option<&Parameter> {
        self.index.get(name).map(|&id| &self.list[id])
    }

    /// Marks a weight as trainable.
    pub fn set_trainable(&mut self, id: ParameterId) {
        self.list[id].trains = true;
    }

    /// Allocates the weights, the gradient of every trainable weight and the optimiser's `state`, and copies `weights`, those of
    /// [`Parameters::new`].
    pub fn allocate(&mut self, weights: &Weights, state: OptimizerState) {
        let sizes: Vec<usize> = self.list.iter().map(|parameter| parameter.len).collect();
        for ((parameter, tensor), value) in self.list.iter_mut().zip(weights.values()).zip(Buffer::several(&sizes)) {
            parameter.value = value;
            parameter.value.copy_from_slice(&tensor.data);
        }
        let present = [true, state.first, state.second];
        let sizes = self.trainable().flat_map(|parameter| present.map(|p| if p { parameter.len } else { 0 }));
        let mut buffers = Buffer::several(&sizes.collect::<Vec<_>>()).into_iter();
        let mut next = || buffers.next().unwrap_or_default();
        for parameter in self.trainable_mut() {
            (parameter.gradient, parameter.first, parameter.second) = (next(), next(), next());
        }
    }

    /// The weight `id`.
    pub fn get(&self, id: ParameterId) -> &Parameter {
        &self.list[id]
    }

    /// The weight `id`, to be changed.
    pub fn get_mut(&mut self, id: ParameterId) -> &mut Parameter {
        &mut self.list[id]
    }

    /// The elements of the weight `id`.
    pub fn value(&self, id: ParameterId) -> &[f32] {
        &self.list[id].value
    }

    /// Writes the gradient of the weight `id`, one element per sum.
    pub fn write_gradient(&mut self, id: ParameterId, sums: &[f64]) {
        for (gradient, &sum) in self.list[id].gradient.iter_mut().zip(sums) {
            *gradient = sum as f32;
        }
    }

    /// The weights that train, in a fixed order.
    pub fn trainable(&self) -> impl Iterator<Item = &Parameter> {
        self.list.iter().filter(|parameter| parameter.trains)
    }

    /// The weights that train, in a fixed order, to be changed.
    pub fn trainable_mut(&mut self) -> impl Iterator<Item = &mut Parameter> {
        self.list.iter_mut().filter(|parameter| parameter.trains)
    }

    /// A copy of all weights.
    pub fn export(&self) -> Weights {
        let tensor = |parameter: &Parameter| Tensor { shape: parameter.shape.clone(), data: parameter.value.to_vec() };
        self.list.iter().map(|parameter| (parameter.name.clone(), tensor(parameter))).collect()
    }

    /// Copies the given weights, after checking all of them; the others stay as they are.
    pub fn import(&mut self, weights: &Weights) -> Result<(), Error> {
        let fail = |name: &String, problem: String| Err(Error::Weight { name: name.clone(), problem });
        for (name, tensor) in weights {
            let Some(&id) = self.index.get(name) else {
                return fail(name, "does not exist in this network".into());
            };
            let parameter = &self.list[id];
            if parameter.shape != tensor.shape || parameter.value.len() != tensor.data.len() {
                return fail(name, format!("has shape {:?}, not {:?}", tensor.shape, parameter.shape));
            }
        }
        for (name, tensor) in weights {
            let parameter = &mut self.list[self.index[name]];
            parameter.value.copy_from_slice(&tensor.data);
            parameter.version += 1;
        }
        Ok(())
    }

    /// A copy of one of the optimiser's state tensors of every trainable weight that has it.
    pub fn export_state(&self, of: fn(&Parameter) -> &Buffer) -> Weights {
        let held = self.trainable().filter(|parameter| !of(parameter).is_empty());
        let tensor = |parameter: &Parameter| Tensor { shape: parameter.shape.clone(), data: of(parameter).to_vec() };
        held.map(|parameter| (parameter.name.clone(), tensor(parameter))).collect()
    }

    /// Whether `state` holds one of the optimiser's state tensors for exactly the trainable weights that have it.
    pub fn check_state(&self, state: &Weights, of: fn(&Parameter) -> &Buffer) -> Result<(), Error> {
        let fail = |name: &String, problem: &str| Err(Error::Weight { name: name.clone(), problem: problem.into() });
        for parameter in self.trainable() {
            let found = state.get(&parameter.name).map_or(0, |tensor| tensor.data.len());
            if found != of(parameter).len() {
                return fail(&parameter.name, "has another optimiser's state");
            }
        }
        match state.keys().find(|name| !self.named(name).is_some_and(|parameter| parameter.trains)) {
            Some(name) => fail(name, "does not train in this model"),
            None => Ok(()),
        }
    }

    /// Copies a state that [`Parameters::check_state`] accepts.
    pub fn import_state(&mut self, state: &Weights, of: fn(&mut Parameter) -> &mut Buffer) {
        for parameter in self.trainable_mut() {
            if let Some(tensor) = state.get(&parameter.name) {
                of(parameter).copy_from_slice(&tensor.data);
            }
        }
    }

    /// Bytes that [`Parameters::allocate`] allocates; `None` if the number overflows.
    pub fn bytes_needed(&self, state: OptimizerState) -> Option<u64> {
        let per_trainable = 2 + u64::from(state.first) + u64::from(state.second);
        self.list.iter().try_fold(0u64, |sum, parameter| {
            let buffers = if parameter.trains { per_trainable } else { 1 };
            sum.checked_add((parameter.len as u64).checked_mul(4 * buffers)?)
        })
    }

    /// Bytes held by weights, gradients and optimiser state.
    pub fn bytes(&self) -> usize {
        let buffers = |p: &Parameter| p.value.bytes() + p.gradient.bytes() + p.first.bytes() + p.second.bytes();
        self.list.iter().map(buffers).sum()
    }
}
