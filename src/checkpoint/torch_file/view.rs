//! A tensor as a view of a storage.

use super::arena::{Arena, Id, Node, Storage, TensorNode};
use super::error::ReadError;
use super::value::{DType, bytes_of, elements_of};

/// PyTorch's own limit.
const DIMENSIONS_MAX: usize = 64;

/// Offset and strides are in elements.
pub struct View<'a> {
    storage: Storage<'a>,
    offset: usize,
    shape: Vec<usize>,
    strides: Vec<usize>,
}

impl<'a> View<'a> {
    pub fn new(nodes: &Arena<'_>, tensor: &TensorNode<'a>) -> Result<Self, ReadError> {
        Ok(Self {
            storage: tensor.storage,
            offset: tensor.offset,
            shape: sizes_of(nodes, tensor.shape)?,
            strides: sizes_of(nodes, tensor.strides)?,
        })
    }

    /// Checks that all elements are in the storage.
    pub fn check(&self) -> Result<(), ReadError> {
        let tensor = |what| Err(ReadError::Tensor { what });
        if self.shape.len() != self.strides.len() {
            return tensor(format!(
                "{} sizes and {} strides",
                self.shape.len(),
                self.strides.len()
            ));
        }
        let held = self.storage.bytes.len() / self.storage.dtype.size();
        let last =
            self.shape
                .iter()
                .zip(&self.strides)
                .try_fold(self.offset, |last, (&size, &stride)| {
                    let reach = size.saturating_sub(1).checked_mul(stride)?;
                    last.checked_add(reach)
                });
        let empty = elements_of(&self.shape) == Some(0);
        let fits = last.is_some_and(|last| {
            if empty {
                self.offset <= held
            } else {
                last < held
            }
        });
        if bytes_of(self.storage.dtype, &self.shape).is_some() && fits {
            return Ok(());
        }
        tensor(format!(
            "shape {:?}, strides {:?}, offset {} in a storage of {held} elements",
            self.shape, self.strides, self.offset
        ))
    }

    pub fn dtype(&self) -> DType {
        self.storage.dtype
    }

    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    pub fn into_shape(self) -> Vec<usize> {
        self.shape
    }

    fn is_contiguous(&self) -> bool {
        let mut expected = 1_usize;
        for (&size, &stride) in self.shape.iter().zip(&self.strides).rev() {
            if size != 1 && stride != expected {
                return false;
            }
            expected = expected.saturating_mul(size);
        }
        true
    }

    /// The elements in row-major order, `bytes` long in total.
    pub fn gather(&self, bytes: usize) -> Option<Vec<u8>> {
        let width = self.storage.dtype.size();
        if bytes == 0 {
            return Some(Vec::new());
        }
        if self.is_contiguous() {
            let from = self.offset * width;
            return self
                .storage
                .bytes
                .get(from..from + bytes)
                .map(<[u8]>::to_vec);
        }
        let mut data = Vec::with_capacity(bytes);
        let mut index = vec![0_usize; self.shape.len()];
        let mut element = self.offset;
        while data.len() < bytes {
            let from = element * width;
            data.extend_from_slice(self.storage.bytes.get(from..from + width)?);
            // Increment the last index, with a carry into those before it. Only a dimension
            // of size 1 can have a stride that wraps, and it wraps back.
            let dimensions = index.iter_mut().zip(&self.shape).zip(&self.strides);
            for ((index, &size), &stride) in dimensions.rev() {
                *index += 1;
                element = element.wrapping_add(stride);
                if *index < size {
                    break;
                }
                element = element.wrapping_sub(size.wrapping_mul(stride));
                *index = 0;
            }
        }
        Some(data)
    }
}

fn sizes_of(nodes: &Arena<'_>, id: Id) -> Result<Vec<usize>, ReadError> {
    let Node::Tuple(items) = nodes.get(id) else {
        let what = "its sizes or strides are not a tuple".to_owned();
        return Err(ReadError::Tensor { what });
    };
    if items.len() > DIMENSIONS_MAX {
        return Err(ReadError::Limit {
            what: "a tensor's number of dimensions",
            limit: DIMENSIONS_MAX as u64,
        });
    }
    let sizes = items.iter().map(|&item| nodes.size(item));
    sizes.collect::<Option<_>>().ok_or_else(|| {
        let what = "a size or stride is not a count".to_owned();
        ReadError::Tensor { what }
    })
}
