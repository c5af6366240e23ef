//! A model's parameters: their names, shapes and order, and their storage.
//!
//! All values are stored in two flat tensors: one for parameters with weight decay, one for those without. A *piece* is a
//! section of a flat tensor that a forward pass uses as one tensor. So the weights of q, k and v are one matrix without a
//! copy, and the optimizer needs a dozen operations per update whatever the number of parameters. Visible names, shapes
//! and order are those of TinyWorlds' `state_dict()`; the layout is private to this file.
//! Invariant: every element of a flat tensor belongs to exactly one named parameter.

use std::collections::BTreeMap;

use tch::{Device, Tensor};

use super::error::{Result, StateError, TrainError};
use super::init::{Init, InitKey};

/// A tensor as a checkpoint holds it: little-endian, row-major.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedTensor {
    pub name: String,
    pub shape: Vec<usize>,
    pub element: Element,
    pub bytes: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Element {
    F32,
    I64,
}

impl Element {
    fn name(self) -> &'static str {
        match self {
            Element::F32 => "f32",
            Element::I64 => "i64",
        }
    }
}

/// Identifies a piece before its values exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PieceId(usize);

/// Which of the two flat tensors holds a parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Group {
    Decayed,
    Plain,
}

/// The number of flat tensors; gradients and moments come in arrays of this length.
pub(crate) const GROUPS: usize = 2;

/// Whether weight decay applies: to tensors of two or more dimensions that are no bias and not part of a norm.
pub fn decays(name: &str, shape: &[i64]) -> bool {
    crate::checkpoint::decays(name, shape.len())
}

enum Entry {
    Parameter {
        name: String,
        shape: Vec<i64>,
        init: Init,
        piece: PieceId,
    },
    Buffer {
        name: String,
        values: Vec<i64>,
    },
}

/// The plan of a model's parameters, filled in the order of TinyWorlds' `state_dict()`.
#[derive(Default)]
pub(crate) struct Layout {
    entries: Vec<Entry>,
    pieces: usize,
}

impl Layout {
    /// Starts a piece. Its members are stacked along the first dimension in the order added.
    pub fn piece(&mut self) -> PieceId {
        self.pieces += 1;
        PieceId(self.pieces - 1)
    }

    /// Adds a parameter to a piece. Weight decay must apply to all members of a piece or to none.
    pub fn add(&mut self, piece: PieceId, name: String, shape: &[i64], init: Init) {
        self.entries.push(Entry::Parameter {
            name,
            shape: shape.to_vec(),
            init,
            piece,
        });
    }

    /// Adds a parameter that is a whole piece.
    pub fn single(&mut self, name: String, shape: &[i64], init: Init) -> PieceId {
        let piece = self.piece();
        self.add(piece, name, shape, init);
        piece
    }

    /// Adds a buffer, which is saved with the model and never trained.
    pub fn buffer(&mut self, name: String, values: Vec<i64>) {
        self.entries.push(Entry::Buffer { name, values });
    }

    /// Parameters with the initial weights of `key`.
    pub fn build(self, key: &InitKey, device: Device) -> Result<Parameters> {
        self.lay_out(|name, count, init| key.values(name, count, init), device)
    }

    /// Parameters that are all zero.
    pub fn zeros(self, device: Device) -> Result<Parameters> {
        self.lay_out(|_, count, _| vec![0.0; count], device)
    }

    fn lay_out(
        self,
        first: impl Fn(&str, usize, Init) -> Vec<f32>,
        device: Device,
    ) -> Result<Parameters> {
        let mut pieces: Vec<Piece> = (0..self.pieces).map(|_| Piece::default()).collect();
        for entry in &self.entries {
            if let Entry::Parameter {
                name, shape, piece, ..
            } = entry
            {
                let group = if decays(name, shape) {
                    Group::Decayed
                } else {
                    Group::Plain
                };
                piece_at(&mut pieces, *piece)?.grow(name, shape, group)?;
            }
        }
        let mut lengths = [0_i64; GROUPS];
        for piece in &mut pieces {
            let length = &mut lengths[piece.group as usize];
            piece.offset = *length;
            piece.filled = *length;
            *length += piece.numel();
        }
        let mut numbers = lengths.map(|length| vec![0.0_f32; length as usize]);
        let mut entries = Vec::with_capacity(self.entries.len());
        for entry in self.entries {
            entries.push(match entry {
                Entry::Buffer { name, values } => Stored {
                    name,
                    shape: vec![values.len() as i64],
                    storage: Storage::Buffer(values),
                },
                Entry::Parameter {
                    name,
                    shape,
                    init,
                    piece,
                } => {
                    let piece = piece_at(&mut pieces, piece)?;
                    let count: i64 = shape.iter().product();
                    let offset = piece.filled;
                    piece.filled += count;
                    let values = first(&name, count as usize, init);
                    let flat = &mut numbers[piece.group as usize];
                    flat[offset as usize..][..values.len()].copy_from_slice(&values);
                    Stored {
                        name,
                        shape,
                        storage: Storage::Flat {
                            group: piece.group,
                            offset,
                        },
                    }
                }
            });
        }
        let [decayed, plain] = numbers;
        let flats = [flat_tensor(&decayed, device)?, flat_tensor(&plain, device)?];
        Ok(Parameters {
            entries,
            pieces,
            flats,
            device,
        })
    }
}

fn piece_at(pieces: &mut [Piece], id: PieceId) -> Result<&mut Piece> {
    pieces
        .get_mut(id.0)
        .ok_or_else(|| TrainError::Tensor(format!("bug: no piece {}", id.0)))
}

fn flat_tensor(values: &[f32], device: Device) -> Result<Tensor> {
    Ok(Tensor::f_from_slice(values)?.f_to_device(device)?)
}

struct Piece {
    group: Group,
    shape: Vec<i64>,
    offset: i64,
    /// Where the next member begins, while the piece is filled.
    filled: i64,
}

impl Default for Piece {
    fn default() -> Self {
        Piece {
            group: Group::Plain,
            shape: Vec::new(),
            offset: 0,
            filled: 0,
        }
    }
}

impl Piece {
    fn numel(&self) -> i64 {
        if self.shape.is_empty() {
            0
        } else {
            self.shape.iter().product()
        }
    }

    fn grow(&mut self, name: &str, shape: &[i64], group: Group) -> Result<()> {
        let Some(rows) = self.shape.first_mut() else {
            self.shape = shape.to_vec();
            self.group = group;
            return Ok(());
        };
        *rows += shape.first().copied().unwrap_or(0);
        if self.shape.get(1..) != shape.get(1..) || self.group != group {
            return Err(TrainError::Tensor(format!(
                "bug: `{name}` does not fit its piece"
            )));
        }
        Ok(())
    }
}

struct Stored {
    name: String,
    shape: Vec<i64>,
    storage: Storage,
}

/// Where the values of a parameter or buffer are stored.
enum Storage {
    Flat { group: Group, offset: i64 },
    Buffer(Vec<i64>),
}

/// The parameters of one model on one device.
pub struct Parameters {
    entries: Vec<Stored>,
    pieces: Vec<Piece>,
    flats: [Tensor; GROUPS],
    device: Device,
}

/// The pieces as tensors, for one forward pass.
pub(crate) struct Weights {
    pieces: Vec<Tensor>,
}

impl std::ops::Index<PieceId> for Weights {
    type Output = Tensor;
    fn index(&self, id: PieceId) -> &Tensor {
        &self.pieces[id.0]
    }
}

impl Parameters {
    pub fn device(&self) -> Device {
        self.device
    }

    /// Number of trained values; buffers do not count.
    pub fn count(&self) -> usize {
        self.flats.iter().map(Tensor::numel).sum()
    }

    /// Names and shapes of the trained parameters, in `state_dict()` order.
    pub fn names(&self) -> impl Iterator<Item = (&str, &[i64])> {
        self.entries
            .iter()
            .filter(|entry| matches!(entry.storage, Storage::Flat { .. }))
            .map(|entry| (entry.name.as_str(), entry.shape.as_slice()))
    }

    pub(crate) fn flats(&self) -> &[Tensor; GROUPS] {
        &self.flats
    }

    /// The flat tensors, to be changed in place.
    pub(crate) fn flats_mut(&mut self) -> &mut [Tensor; GROUPS] {
        &mut self.flats
    }

    /// New autograd leaves that share the storage of the flat tensors.
    pub(crate) fn leaves(&self) -> Result<[Tensor; GROUPS]> {
        let leaf = |flat: &Tensor| flat.f_detach()?.f_set_requires_grad(true);
        Ok([leaf(&self.flats[0])?, leaf(&self.flats[1])?])
    }

    /// The pieces, detached from autograd.
    pub(crate) fn frozen(&self) -> Result<Weights> {
        self.weights(&self.flats)
    }

    /// The pieces as views of `flats`, which are the flat tensors or leaves made from them.
    pub(crate) fn weights(&self, flats: &[Tensor; GROUPS]) -> Result<Weights> {
        let mut pieces: Vec<Option<Tensor>> = self.pieces.iter().map(|_| None).collect();
        for (group, flat) in [Group::Decayed, Group::Plain].into_iter().zip(flats) {
            let members = || {
                self.pieces
                    .iter()
                    .enumerate()
                    .filter(move |(_, piece)| piece.group == group)
            };
            let sizes: Vec<i64> = members().map(|(_, piece)| piece.numel()).collect();
            // The gradient of one split is one concatenation; with a slice per piece each would have a
            // gradient of the flat tensor's full length.
            let parts = flat.f_split_with_sizes(sizes, 0)?;
            for ((index, piece), part) in members().zip(parts) {
                pieces[index] = Some(part.f_view(piece.shape.as_slice())?);
            }
        }
        let pieces = pieces.into_iter().collect::<Option<Vec<_>>>();
        let pieces =
            pieces.ok_or_else(|| TrainError::Tensor("bug: a piece has no values".to_owned()))?;
        Ok(Weights { pieces })
    }

    /// Every parameter and buffer, in `state_dict()` order.
    pub fn export(&self) -> Result<Vec<NamedTensor>> {
        let host = [host_floats(&self.flats[0])?, host_floats(&self.flats[1])?];
        self.entries
            .iter()
            .map(|entry| {
                let (element, bytes) = match &entry.storage {
                    Storage::Buffer(values) => (
                        Element::I64,
                        values.iter().flat_map(|v| v.to_le_bytes()).collect(),
                    ),
                    Storage::Flat { group, offset } => (
                        Element::F32,
                        float_bytes(&host[*group as usize], *offset, entry),
                    ),
                };
                Ok(NamedTensor {
                    name: entry.name.clone(),
                    shape: outer_shape(&entry.shape),
                    element,
                    bytes,
                })
            })
            .collect()
    }

    /// Replaces every parameter. On an error nothing changes.
    ///
    /// # Errors
    /// A [`StateError`] for the first tensor that is missing, unknown or of another shape.
    pub fn load(&mut self, tensors: &[NamedTensor]) -> Result<()> {
        let entries: Vec<&Stored> = self.entries.iter().collect();
        let given = match_up(tensors, &entries)?;
        let mut hosts = [
            vec![0.0; self.flats[0].numel()],
            vec![0.0; self.flats[1].numel()],
        ];
        for (entry, tensor) in entries.iter().zip(given) {
            match &entry.storage {
                Storage::Flat { group, offset } => {
                    write_floats(&mut hosts[*group as usize], *offset, tensor)?
                }
                Storage::Buffer(values) => check_buffer(values, tensor)?,
            }
        }
        self.flats[0].f_copy_(&Tensor::f_from_slice(&hosts[0])?)?;
        self.flats[1].f_copy_(&Tensor::f_from_slice(&hosts[1])?)?;
        Ok(())
    }

    /// Splits flat tensors of this layout (gradients, moments) into one tensor per parameter.
    pub(crate) fn export_flats(&self, flats: &[Tensor; GROUPS]) -> Result<Vec<NamedTensor>> {
        let host = [host_floats(&flats[0])?, host_floats(&flats[1])?];
        let mut tensors = Vec::new();
        for entry in &self.entries {
            if let Storage::Flat { group, offset } = &entry.storage {
                let bytes = float_bytes(&host[*group as usize], *offset, entry);
                tensors.push(NamedTensor {
                    name: entry.name.clone(),
                    shape: outer_shape(&entry.shape),
                    element: Element::F32,
                    bytes,
                });
            }
        }
        Ok(tensors)
    }

    /// The inverse of [`Parameters::export_flats`].
    pub(crate) fn import_flats(&self, tensors: &[NamedTensor]) -> Result<[Tensor; GROUPS]> {
        let is_flat = |entry: &&Stored| matches!(entry.storage, Storage::Flat { .. });
        let entries: Vec<&Stored> = self.entries.iter().filter(is_flat).collect();
        let given = match_up(tensors, &entries)?;
        let mut hosts = [
            vec![0.0; self.flats[0].numel()],
            vec![0.0; self.flats[1].numel()],
        ];
        for (entry, tensor) in entries.iter().zip(given) {
            if let Storage::Flat { group, offset } = &entry.storage {
                write_floats(&mut hosts[*group as usize], *offset, tensor)?;
            }
        }
        Ok([
            flat_tensor(&hosts[0], self.device)?,
            flat_tensor(&hosts[1], self.device)?,
        ])
    }
}

fn outer_shape(shape: &[i64]) -> Vec<usize> {
    shape.iter().map(|&n| n as usize).collect()
}

pub(crate) fn host_floats(flat: &Tensor) -> Result<Vec<f32>> {
    let mut values = vec![0.0; flat.numel()];
    flat.f_to_device(Device::Cpu)?
        .f_copy_data(&mut values, flat.numel())?;
    Ok(values)
}

fn float_bytes(flat: &[f32], offset: i64, entry: &Stored) -> Vec<u8> {
    let count = entry.shape.iter().product::<i64>() as usize;
    let values = flat.iter().skip(offset as usize).take(count);
    values.flat_map(|value| value.to_le_bytes()).collect()
}

fn write_floats(flat: &mut [f32], offset: i64, tensor: &NamedTensor) -> Result<()> {
    if tensor.element != Element::F32 {
        return Err(wrong_element(tensor, Element::F32));
    }
    let values = flat.iter_mut().skip(offset as usize);
    for (value, bytes) in values.zip(tensor.bytes.as_chunks::<4>().0) {
        *value = f32::from_le_bytes(*bytes);
    }
    Ok(())
}

fn check_buffer(values: &[i64], tensor: &NamedTensor) -> Result<()> {
    if tensor.element != Element::I64 {
        return Err(wrong_element(tensor, Element::I64));
    }
    let found = tensor
        .bytes
        .as_chunks::<8>()
        .0
        .iter()
        .map(|bytes| i64::from_le_bytes(*bytes));
    if found.eq(values.iter().copied()) {
        return Ok(());
    }
    Err(StateError::Buffer {
        name: tensor.name.clone(),
    }
    .into())
}

fn wrong_element(tensor: &NamedTensor, expected: Element) -> TrainError {
    let (found, expected) = (tensor.element.name(), expected.name());
    StateError::Element {
        name: tensor.name.clone(),
        found,
        expected,
    }
    .into()
}

/// Finds each entry's tensor by name and checks shape and length; extra tensors are an error.
fn match_up<'a>(tensors: &'a [NamedTensor], entries: &[&Stored]) -> Result<Vec<&'a NamedTensor>> {
    let mut by_name = BTreeMap::new();
    for tensor in tensors {
        if by_name.insert(tensor.name.as_str(), tensor).is_some() {
            return Err(StateError::Twice {
                name: tensor.name.clone(),
            }
            .into());
        }
    }
    let mut found = Vec::with_capacity(entries.len());
    for entry in entries {
        let name = || entry.name.clone();
        let tensor = by_name
            .remove(entry.name.as_str())
            .ok_or_else(|| StateError::Missing { name: name() })?;
        let expected = outer_shape(&entry.shape);
        if tensor.shape != expected {
            return Err(StateError::Shape {
                name: name(),
                found: tensor.shape.clone(),
                expected,
            }
            .into());
        }
        let size = match tensor.element {
            Element::F32 => 4,
            Element::I64 => 8,
        };
        let expected = expected.iter().product::<usize>() * size;
        if tensor.bytes.len() != expected {
            return Err(StateError::Length {
                name: name(),
                found: tensor.bytes.len(),
                expected,
            }
            .into());
        }
        found.push(tensor);
    }
    match by_name.into_keys().next() {
        Some(name) => Err(StateError::Unexpected {
            name: name.to_owned(),
        }
        .into()),
        None => Ok(found),
    }
}
