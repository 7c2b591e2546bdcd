//! The weights of a model, their gradients and the optimiser's state, in the layouts of the net crate.

use std::collections::BTreeMap;

use nettriage_kernels::memory::Buffer;
use nettriage_net::{Tensor, Weights};

use crate::Error;

/// Where a weight stands in [`Params`].
pub(crate) type ParamId = usize;

/// One weight.
pub(crate) struct Param {
    /// `<layer>.<parameter>`.
    pub name: String,
    /// Its shape, as in the net crate.
    pub shape: Vec<usize>,
    /// Its elements.
    pub value: Buffer,
    /// dLoss/dValue; empty where it does not train.
    pub gradient: Buffer,
    /// The optimiser's first state (velocity or first moment); empty where there is none.
    pub first: Buffer,
    /// The optimiser's second state (second moment); empty where there is none.
    pub second: Buffer,
    /// Whether it trains.
    pub trains: bool,
    /// Counts the changes of its value, so that packed copies know when they are stale.
    pub version: u64,
}

/// All weights of a network.
pub(crate) struct Params {
    list: Vec<Param>,
    index: BTreeMap<String, ParamId>,
}

impl Params {
    /// A copy of the network's weights; none trains yet.
    pub fn new(weights: &Weights) -> Params {
        let mut list = Vec::with_capacity(weights.len());
        let mut index = BTreeMap::new();
        let sizes: Vec<usize> = weights.values().map(|tensor| tensor.data.len()).collect();
        for ((name, tensor), mut value) in weights.iter().zip(Buffer::several(&sizes)) {
            value.copy_from_slice(&tensor.data);
            index.insert(name.clone(), list.len());
            list.push(Param {
                name: name.clone(),
                shape: tensor.shape.clone(),
                value,
                gradient: Buffer::default(),
                first: Buffer::default(),
                second: Buffer::default(),
                trains: false,
                version: 1,
            });
        }
        Params { list, index }
    }

    /// The weight `<layer>.<parameter>`, if the network has it.
    pub fn find(&self, layer: &str, parameter: &str) -> Option<ParamId> {
        self.index.get(&format!("{layer}.{parameter}")).copied()
    }

    /// The weight of that full name.
    pub fn named(&self, name: &str) -> Option<&Param> {
        self.index.get(name).map(|&id| &self.list[id])
    }

    /// Marks a weight as trainable.
    pub fn train(&mut self, id: ParamId) {
        self.list[id].trains = true;
    }

    /// Gives every weight that trains room for its gradient and, where the optimiser has such, its first and second state.
    pub fn make_room(&mut self, first: bool, second: bool) {
        let wanted = [true, first, second];
        let sizes = self.trainable().flat_map(|param| wanted.map(|wanted| if wanted { param.value.len() } else { 0 }));
        let mut room = Buffer::several(&sizes.collect::<Vec<_>>()).into_iter();
        let mut next = || room.next().unwrap_or_default();
        for param in self.trainable() {
            (param.gradient, param.first, param.second) = (next(), next(), next());
        }
    }

    /// The weight at `id`.
    pub fn get(&self, id: ParamId) -> &Param {
        &self.list[id]
    }

    /// The weight at `id`, to be changed.
    pub fn get_mut(&mut self, id: ParamId) -> &mut Param {
        &mut self.list[id]
    }

    /// The elements of the weight at `id`.
    pub fn value(&self, id: ParamId) -> &[f32] {
        &self.list[id].value
    }

    /// The weights that train, in a fixed order.
    pub fn trainable(&mut self) -> impl Iterator<Item = &mut Param> {
        self.list.iter_mut().filter(|param| param.trains)
    }

    /// All of them, as the net crate has them.
    pub fn export(&self) -> Weights {
        let tensor = |param: &Param| Tensor { shape: param.shape.clone(), data: param.value.to_vec() };
        self.list.iter().map(|param| (param.name.clone(), tensor(param))).collect()
    }

    /// Takes over the weights given, after a check of all of them; the others stay.
    pub fn import(&mut self, weights: &Weights) -> Result<(), Error> {
        let fail = |name: &String, problem: String| Err(Error::Weight { name: name.clone(), problem });
        for (name, tensor) in weights {
            let Some(&id) = self.index.get(name) else {
                return fail(name, "is none of the network's".into());
            };
            let param = &self.list[id];
            if param.shape != tensor.shape || param.value.len() != tensor.data.len() {
                return fail(name, format!("has shape {:?}, not {:?}", tensor.shape, param.shape));
            }
        }
        for (name, tensor) in weights {
            let param = &mut self.list[self.index[name]];
            param.value.copy_from_slice(&tensor.data);
            param.version += 1;
        }
        Ok(())
    }

    /// Bytes of all that is held here.
    pub fn bytes(&self) -> usize {
        let floats = |p: &Param| p.value.len() + p.gradient.len() + p.first.len() + p.second.len();
        self.list.iter().map(|param| 4 * floats(param)).sum()
    }
}
