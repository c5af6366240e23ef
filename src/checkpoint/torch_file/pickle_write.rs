//! Writes the pickle of a value in protocol 2, for `torch.load(weights_only=True)`.
//! Nothing is memoized and every tensor has its own storage, so the same value gives
//! the same bytes.

use super::archive::ARCHIVE_BYTES_MAX;
use super::error::WriteError;
use super::value::{DEPTH_MAX, Tensor, Value};

/// Returns the pickle and the storages it refers to, by index.
pub fn pickle(value: &Value) -> Result<(Vec<u8>, Vec<&[u8]>), WriteError> {
    let mut pickler = Pickler {
        out: vec![0x80, 2], // PROTO 2
        storages: Vec::new(),
    };
    pickler.value(value, 0)?;
    pickler.out.push(b'.'); // STOP
    Ok((pickler.out, pickler.storages))
}

struct Pickler<'v> {
    out: Vec<u8>,
    storages: Vec<&'v [u8]>,
}

impl<'v> Pickler<'v> {
    fn value(&mut self, value: &'v Value, depth: usize) -> Result<(), WriteError> {
        if depth > DEPTH_MAX {
            return Err(WriteError::TooDeep { limit: DEPTH_MAX });
        }
        match value {
            Value::None => self.out.push(b'N'),
            Value::Bool(true) => self.out.push(0x88),
            Value::Bool(false) => self.out.push(0x89),
            Value::Int(value) => self.int(*value),
            Value::Float(value) => {
                self.out.push(b'G');
                self.out.extend_from_slice(&value.to_be_bytes());
            }
            Value::Str(text) => self.text(text)?,
            Value::List(items) => {
                self.out.extend_from_slice(b"](");
                self.items(items, depth)?;
                self.out.push(b'e'); // APPENDS
            }
            Value::Tuple(items) if items.is_empty() => self.out.push(b')'),
            Value::Tuple(items) => {
                self.out.push(b'(');
                self.items(items, depth)?;
                self.out.push(b't');
            }
            Value::Dict(entries) => {
                self.out.push(b'}');
                self.entries(entries, depth)?;
            }
            Value::OrderedDict(entries) => {
                self.ordered_dict();
                self.entries(entries, depth)?;
            }
            Value::Tensor(tensor) => self.tensor(tensor)?,
            Value::Opaque { class } | Value::Object { class, .. } => {
                let class = class.clone();
                return Err(WriteError::Opaque { class });
            }
        }
        Ok(())
    }

    fn items(&mut self, items: &'v [Value], depth: usize) -> Result<(), WriteError> {
        items
            .iter()
            .try_for_each(|item| self.value(item, depth + 1))
    }

    fn entries(&mut self, entries: &'v [(Value, Value)], depth: usize) -> Result<(), WriteError> {
        self.out.push(b'(');
        for (key, value) in entries {
            self.value(key, depth + 1)?;
            self.value(value, depth + 1)?;
        }
        self.out.push(b'u'); // SETITEMS
        Ok(())
    }

    /// An empty `collections.OrderedDict()`.
    fn ordered_dict(&mut self) {
        self.out.extend_from_slice(b"ccollections\nOrderedDict\n)R");
    }

    fn int(&mut self, value: i64) {
        if let Ok(small) = u8::try_from(value) {
            self.out.extend_from_slice(&[b'K', small]);
        } else if let Ok(medium) = i32::try_from(value) {
            self.out.push(b'J');
            self.out.extend_from_slice(&medium.to_le_bytes());
        } else {
            self.out.extend_from_slice(&[0x8a, 8]); // LONG1 of 8 bytes
            self.out.extend_from_slice(&value.to_le_bytes());
        }
    }

    fn text(&mut self, text: &str) -> Result<(), WriteError> {
        let limit = ARCHIVE_BYTES_MAX;
        let length = u32::try_from(text.len()).map_err(|_| WriteError::TooLarge { limit })?;
        self.out.push(b'X');
        self.out.extend_from_slice(&length.to_le_bytes());
        self.out.extend_from_slice(text.as_bytes());
        Ok(())
    }

    /// `_rebuild_tensor_v2(storage, 0, shape, strides, False, OrderedDict())`.
    fn tensor(&mut self, tensor: &'v Tensor) -> Result<(), WriteError> {
        let key = self.storages.len();
        self.storages.push(tensor.data());
        self.out
            .extend_from_slice(b"ctorch._utils\n_rebuild_tensor_v2\n((");
        self.text("storage")?;
        let class = tensor.dtype().storage_class();
        self.out
            .extend_from_slice(format!("ctorch\n{class}\n").as_bytes());
        self.text(&key.to_string())?;
        self.text("cpu")?;
        self.int(tensor.elements() as i64);
        self.out.extend_from_slice(b"tQ"); // TUPLE, BINPERSID
        self.int(0);
        self.sizes(tensor.shape());
        self.sizes(&strides(tensor.shape()));
        self.out.push(0x89);
        self.ordered_dict();
        self.out.extend_from_slice(b"tR"); // TUPLE, REDUCE
        Ok(())
    }

    fn sizes(&mut self, sizes: &[usize]) {
        self.out.push(b'(');
        sizes.iter().for_each(|&size| self.int(size as i64));
        self.out.push(b't');
    }
}

/// The strides of a dense row-major tensor in elements, at least 1 as in PyTorch.
fn strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    let mut stride = 1_usize;
    for (slot, &size) in strides.iter_mut().zip(shape).rev() {
        *slot = stride;
        stride = stride.saturating_mul(size.max(1));
    }
    strides
}
