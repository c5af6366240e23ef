//! The second pass of the reader: converts the pickle machine's arena to a plain tree of
//! values, with the tensors' bytes gathered from their storages.
//!
//! A node that the pickle refers to many times is copied each time, and a tensor may
//! be larger than its storage (stride 0), so a small file could grow here. Invariant:
//! the tree stays within a budget in proportion to the file, and the limit on depth ends
//! cycles.

use std::collections::BTreeSet;

use super::arena::{Arena, Id, Node, TensorNode};
use super::error::ReadError;
use super::global::Global;
use super::value::{DEPTH_MAX, DType, Tensor, Value, bytes_of};
use super::view::View;

/// Tensors may share a storage (tied weights) and repeat its elements.
const TENSOR_BYTES_PER_FILE_BYTE: usize = 8;
const TENSOR_BYTES_FREE: usize = 16 << 20;
/// The same for strings and containers that the pickle refers to many times.
const TREE_BYTES_PER_PICKLE_BYTE: usize = 128;
const TREE_BYTES_FREE: usize = 1 << 20;

/// The tree below `root`, for a pickle and a file of these lengths.
pub fn unfold(
    nodes: &Arena<'_>,
    root: Id,
    pickle_bytes: usize,
    file_bytes: usize,
) -> Result<Value, ReadError> {
    let budget = |bytes: usize, factor, free| bytes.saturating_mul(factor).saturating_add(free);
    let mut builder = Builder {
        nodes,
        tree_bytes_left: budget(pickle_bytes, TREE_BYTES_PER_PICKLE_BYTE, TREE_BYTES_FREE),
        tensor_bytes_left: budget(file_bytes, TENSOR_BYTES_PER_FILE_BYTE, TENSOR_BYTES_FREE),
    };
    builder.build(root, 0)
}

/// Unfolds the arena into a tree.
struct Builder<'n, 'a> {
    nodes: &'n Arena<'a>,
    tree_bytes_left: usize,
    tensor_bytes_left: usize,
}

impl Builder<'_, '_> {
    fn build(&mut self, id: Id, depth: usize) -> Result<Value, ReadError> {
        if depth > DEPTH_MAX {
            return Err(ReadError::Limit {
                what: "the depth of nested values",
                limit: DEPTH_MAX as u64,
            });
        }
        let nodes = self.nodes;
        let node = nodes.get(id);
        self.spend(std::mem::size_of::<Value>())?;
        Ok(match node {
            Node::None => Value::None,
            Node::Bool(value) => Value::Bool(*value),
            Node::Int(value) => Value::Int(*value),
            Node::WideInt => Value::Opaque {
                class: "int of more than 64 bits".to_owned(),
            },
            Node::Float(value) => Value::Float(*value),
            Node::Str(text) => {
                self.spend(text.len())?;
                Value::Str((*text).to_owned())
            }
            Node::List(items) => Value::List(self.items(items, depth)?),
            Node::Tuple(items) => Value::Tuple(self.items(items, depth)?),
            Node::Dict { ordered, entries } => {
                let entries = self.entries(entries, depth)?;
                if *ordered {
                    Value::OrderedDict(entries)
                } else {
                    Value::Dict(entries)
                }
            }
            Node::Bytes(_) | Node::Latin1(_) => Value::Opaque {
                class: "bytes".to_owned(),
            },
            Node::NumpyDType(_) => Value::Opaque {
                class: "numpy.dtype".to_owned(),
            },
            Node::Global(global) | Node::Made(global) => {
                let class = global.class();
                self.spend(class.len())?;
                Value::Opaque { class }
            }
            Node::Object(global, attributes) => {
                let class = global.class();
                self.spend(class.len())?;
                let attributes = self.attributes(*attributes)?;
                Value::Object { class, attributes }
            }
            Node::Storage(storage) => Value::Opaque {
                class: Global::Storage(storage.dtype).class(),
            },
            Node::Tensor(tensor) => Value::Tensor(self.tensor(tensor)?),
        })
    }

    fn items(&mut self, items: &[Id], depth: usize) -> Result<Vec<Value>, ReadError> {
        let items = items.iter();
        items.map(|&item| self.build(item, depth + 1)).collect()
    }

    /// The attributes of an object that are plain values. Others may refer back to the object.
    fn attributes(&mut self, id: Id) -> Result<Vec<(Value, Value)>, ReadError> {
        let nodes = self.nodes;
        let Node::Dict { entries, .. } = nodes.get(id) else {
            return Ok(Vec::new());
        };
        let mut built = Vec::new();
        for &(key, value) in entries {
            let is_plain = matches!(
                nodes.get(value),
                Node::None | Node::Bool(_) | Node::Int(_) | Node::Float(_) | Node::Str(_)
            );
            if is_plain && let Node::Str(_) = nodes.get(key) {
                built.push((self.build(key, 0)?, self.build(value, 0)?));
            }
        }
        Ok(built)
    }

    /// Refuses repeated keys: Python would keep the last, but no writer repeats one.
    fn entries(
        &mut self,
        entries: &[(Id, Id)],
        depth: usize,
    ) -> Result<Vec<(Value, Value)>, ReadError> {
        let (mut texts, mut numbers) = (BTreeSet::new(), BTreeSet::new());
        for (key, _) in entries {
            let key = self.nodes.get(*key);
            let repeated = if let Node::Str(text) = key {
                !texts.insert(*text)
            } else if let Node::Int(number) = key {
                !numbers.insert(*number)
            } else {
                false
            };
            if repeated {
                return Err(ReadError::damaged("a dict has the same key twice"));
            }
        }
        let mut built = Vec::new();
        for (key, value) in entries {
            let key = self.build(*key, depth + 1)?;
            built.push((key, self.build(*value, depth + 1)?));
        }
        Ok(built)
    }

    fn tensor(&mut self, tensor: &TensorNode<'_>) -> Result<Tensor, ReadError> {
        let view = View::new(self.nodes, tensor)?;
        self.spend(std::mem::size_of_val(view.shape()))?;
        let dtype = view.dtype();
        let bytes = bytes_of(dtype, view.shape()).unwrap_or(usize::MAX);
        let left = self.tensor_bytes_left.checked_sub(bytes);
        self.tensor_bytes_left = left.ok_or(ReadError::Limit {
            what: "the size of all tensors in proportion to the file",
            limit: TENSOR_BYTES_PER_FILE_BYTE as u64,
        })?;
        let wrong = |what: String| ReadError::Tensor { what };
        let data = view.gather(bytes);
        let data = data.ok_or_else(|| wrong("it reaches past the storage's end".to_owned()))?;
        if dtype == DType::Bool
            && let Some(byte) = data.iter().find(|&&byte| byte > 1)
        {
            return Err(wrong(format!("a `bool` element is {byte}")));
        }
        Tensor::new(dtype, view.into_shape(), data).map_err(|error| wrong(error.to_string()))
    }

    fn spend(&mut self, bytes: usize) -> Result<(), ReadError> {
        let left = self.tree_bytes_left.checked_sub(bytes);
        self.tree_bytes_left = left.ok_or(ReadError::Limit {
            what: "the size of all values in proportion to the pickle",
            limit: TREE_BYTES_PER_PICKLE_BYTE as u64,
        })?;
        Ok(())
    }
}
