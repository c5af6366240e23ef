//! The content of `torch.save` files as plain data: Python's basic types, and tensors
//! as bytes, independent of libtorch.
//!
//! Invariant: a [`Tensor`]'s data has exactly the length for its type and shape.

use crate::float16::half;

/// How deeply lists, tuples and dicts may be nested in a file.
pub const DEPTH_MAX: usize = 64;

/// The content of a `torch.save` archive.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    pub value: Value,
    /// Globals in the pickle that are not on the allow-list, sorted, as `module.name`.
    /// They were neither looked up nor called; what they would have created is
    /// [`Value::Opaque`] or [`Value::Object`] in `value`.
    pub foreign: Vec<String>,
}

/// Element type of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DType {
    F64,
    F32,
    F16,
    BF16,
    I64,
    I32,
    I16,
    I8,
    U8,
    Bool,
}

impl DType {
    pub const ALL: [DType; 10] = [
        DType::F64,
        DType::F32,
        DType::F16,
        DType::BF16,
        DType::I64,
        DType::I32,
        DType::I16,
        DType::I8,
        DType::U8,
        DType::Bool,
    ];

    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            DType::F64 | DType::I64 => 8,
            DType::F32 | DType::I32 => 4,
            DType::F16 | DType::BF16 | DType::I16 => 2,
            DType::I8 | DType::U8 | DType::Bool => 1,
        }
    }

    pub fn is_float(self) -> bool {
        matches!(self, DType::F64 | DType::F32 | DType::F16 | DType::BF16)
    }

    /// PyTorch's name, without `torch.`.
    pub fn name(self) -> &'static str {
        match self {
            DType::F64 => "float64",
            DType::F32 => "float32",
            DType::F16 => "float16",
            DType::BF16 => "bfloat16",
            DType::I64 => "int64",
            DType::I32 => "int32",
            DType::I16 => "int16",
            DType::I8 => "int8",
            DType::U8 => "uint8",
            DType::Bool => "bool",
        }
    }

    /// The storage class of this type in a file, without `torch.`.
    pub(super) fn storage_class(self) -> &'static str {
        match self {
            DType::F64 => "DoubleStorage",
            DType::F32 => "FloatStorage",
            DType::F16 => "HalfStorage",
            DType::BF16 => "BFloat16Storage",
            DType::I64 => "LongStorage",
            DType::I32 => "IntStorage",
            DType::I16 => "ShortStorage",
            DType::I8 => "CharStorage",
            DType::U8 => "ByteStorage",
            DType::Bool => "BoolStorage",
        }
    }
}

/// Why a tensor cannot be created or converted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TensorError {
    #[error("shape {shape:?} of {dtype} needs more bytes than a machine can address", dtype = .dtype.name())]
    TooLarge { dtype: DType, shape: Vec<usize> },
    #[error("shape {shape:?} of {dtype} needs {expected} bytes, found {found}", dtype = .dtype.name())]
    Length {
        dtype: DType,
        shape: Vec<usize>,
        expected: usize,
        found: usize,
    },
    #[error("{value} does not fit a float32")]
    Overflow { value: String },
    #[error("the tensor has type {found}, expected {expected}", found = .found.name(), expected = .expected.name())]
    DType { expected: DType, found: DType },
}

/// A dense tensor: row-major, little-endian, without gaps.
#[derive(Clone, PartialEq, Eq)]
pub struct Tensor {
    dtype: DType,
    shape: Vec<usize>,
    data: Vec<u8>,
}

impl Tensor {
    /// # Errors
    /// If `data` does not have the length for `dtype` and `shape`.
    pub fn new(dtype: DType, shape: Vec<usize>, data: Vec<u8>) -> Result<Self, TensorError> {
        let Some(expected) = bytes_of(dtype, &shape) else {
            return Err(TensorError::TooLarge { dtype, shape });
        };
        if expected != data.len() {
            let found = data.len();
            return Err(TensorError::Length {
                dtype,
                shape,
                expected,
                found,
            });
        }
        Ok(Self { dtype, shape, data })
    }

    /// # Errors
    /// If `values` are not as many as `shape` says.
    pub fn from_f32(shape: Vec<usize>, values: &[f32]) -> Result<Self, TensorError> {
        let data = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Self::new(DType::F32, shape, data)
    }

    /// # Errors
    /// If `values` are not as many as `shape` says.
    pub fn from_i64(shape: Vec<usize>, values: &[i64]) -> Result<Self, TensorError> {
        let data = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Self::new(DType::I64, shape, data)
    }

    /// A tensor of no dimensions, such as the `step` of PyTorch's AdamW.
    pub fn scalar_f32(value: f32) -> Self {
        Self {
            dtype: DType::F32,
            shape: Vec::new(),
            data: value.to_le_bytes().to_vec(),
        }
    }

    pub fn dtype(&self) -> DType {
        self.dtype
    }

    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The elements as little-endian bytes, in row-major order.
    pub fn data(&self) -> &[u8] {
        &self.data
    }

    pub fn into_data(self) -> Vec<u8> {
        self.data
    }

    pub fn elements(&self) -> usize {
        self.data.len() / self.dtype.size()
    }

    /// # Errors
    /// If the type is not `float32`.
    pub fn to_f32(&self) -> Result<Vec<f32>, TensorError> {
        self.expect(DType::F32)?;
        Ok(chunks(&self.data).map(f32::from_le_bytes).collect())
    }

    /// The tensor in a type for training: `float32` for floats, `int64` for whole numbers.
    /// Shorter floats are widened exactly and `float64` is rounded.
    ///
    /// # Errors
    /// If a `float64` exceeds the range of `float32`.
    pub fn for_training(&self) -> Result<Tensor, TensorError> {
        let floats: Vec<f32> = match self.dtype {
            DType::F32 | DType::I64 => return Ok(self.clone()),
            DType::F16 => chunks(&self.data)
                .map(|b| half(u16::from_le_bytes(b)))
                .collect(),
            DType::BF16 => chunks(&self.data)
                .map(|b| brain(u16::from_le_bytes(b)))
                .collect(),
            DType::F64 => {
                let narrow = |b| {
                    let wide = f64::from_le_bytes(b);
                    let narrow = wide as f32;
                    let fits = narrow.is_finite() || !wide.is_finite();
                    fits.then_some(narrow).ok_or(TensorError::Overflow {
                        value: wide.to_string(),
                    })
                };
                chunks(&self.data).map(narrow).collect::<Result<_, _>>()?
            }
            DType::I32 | DType::I16 | DType::I8 | DType::U8 | DType::Bool => {
                let wide: Vec<i64> = self.numbers().map(|number| number as i64).collect();
                return Tensor::from_i64(self.shape.clone(), &wide);
            }
        };
        Tensor::from_f32(self.shape.clone(), &floats)
    }

    /// The elements of any type in order; an `int64` becomes the nearest float.
    pub fn numbers(&self) -> Box<dyn Iterator<Item = f64> + '_> {
        let data = &self.data;
        match self.dtype {
            DType::F64 => Box::new(chunks(data).map(f64::from_le_bytes)),
            DType::F32 => Box::new(chunks(data).map(|b| f32::from_le_bytes(b).into())),
            DType::F16 => Box::new(chunks(data).map(|b| half(u16::from_le_bytes(b)).into())),
            DType::BF16 => Box::new(chunks(data).map(|b| brain(u16::from_le_bytes(b)).into())),
            DType::I64 => Box::new(chunks(data).map(|b| i64::from_le_bytes(b) as f64)),
            DType::I32 => Box::new(chunks(data).map(|b| i32::from_le_bytes(b).into())),
            DType::I16 => Box::new(chunks(data).map(|b| i16::from_le_bytes(b).into())),
            DType::I8 => Box::new(chunks(data).map(|b| i8::from_le_bytes(b).into())),
            DType::U8 | DType::Bool => Box::new(data.iter().map(|&b| b.into())),
        }
    }

    /// # Errors
    /// If the type is not `int64`.
    pub fn to_i64(&self) -> Result<Vec<i64>, TensorError> {
        self.expect(DType::I64)?;
        Ok(chunks(&self.data).map(i64::from_le_bytes).collect())
    }

    /// Whether no element is infinite or NaN.
    pub fn is_finite(&self) -> bool {
        match self.dtype {
            DType::F64 => chunks(&self.data).all(|b| f64::from_le_bytes(b).is_finite()),
            DType::F32 => chunks(&self.data).all(|b| f32::from_le_bytes(b).is_finite()),
            // An exponent of all ones means infinity or NaN (IEEE 754).
            DType::F16 => chunks(&self.data).all(|b| u16::from_le_bytes(b) & 0x7C00 != 0x7C00),
            DType::BF16 => chunks(&self.data).all(|b| u16::from_le_bytes(b) & 0x7F80 != 0x7F80),
            DType::I64 | DType::I32 | DType::I16 | DType::I8 | DType::U8 | DType::Bool => true,
        }
    }

    fn expect(&self, expected: DType) -> Result<(), TensorError> {
        let found = self.dtype;
        if found == expected {
            Ok(())
        } else {
            Err(TensorError::DType { expected, found })
        }
    }
}

/// Without the data, which may be megabytes.
impl std::fmt::Debug for Tensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tensor({}, {:?})", self.dtype.name(), self.shape)
    }
}

/// A Python value in a `torch.save` file.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Str(String),
    List(Vec<Value>),
    Tuple(Vec<Value>),
    /// A plain dict, in its order of insertion.
    Dict(Vec<(Value, Value)>),
    /// A `collections.OrderedDict`, like a model's `state_dict()`.
    OrderedDict(Vec<(Value, Value)>),
    Tensor(Tensor),
    /// A value that only Python could create, with the class or function for it.
    Opaque {
        class: String,
    },
    /// The same, with those attributes that are plain values, by name.
    Object {
        class: String,
        attributes: Vec<(Value, Value)>,
    },
}

impl Value {
    /// A plain dict with string keys.
    pub fn dict<K: Into<String>>(entries: impl IntoIterator<Item = (K, Value)>) -> Self {
        let entries = entries.into_iter();
        Value::Dict(entries.map(|(k, v)| (Value::Str(k.into()), v)).collect())
    }

    /// An `OrderedDict` of tensors, the form of a PyTorch `state_dict()`.
    pub fn state_dict(tensors: impl IntoIterator<Item = (String, Tensor)>) -> Self {
        let tensors = tensors.into_iter();
        Value::OrderedDict(
            tensors
                .map(|(k, t)| (Value::Str(k), Value::Tensor(t)))
                .collect(),
        )
    }

    /// Python's name of the type.
    pub fn kind(&self) -> &str {
        match self {
            Value::None => "None",
            Value::Bool(_) => "bool",
            Value::Int(_) => "int",
            Value::Float(_) => "float",
            Value::Str(_) => "str",
            Value::List(_) => "list",
            Value::Tuple(_) => "tuple",
            Value::Dict(_) => "dict",
            Value::OrderedDict(_) => "OrderedDict",
            Value::Tensor(_) => "Tensor",
            Value::Opaque { class } | Value::Object { class, .. } => class,
        }
    }

    /// The entry of a plain or ordered dict at a string key, or an object's attribute.
    pub fn get(&self, key: &str) -> Option<&Value> {
        let entries = if let Value::Object { attributes, .. } = self {
            attributes
        } else {
            self.as_dict()?
        };
        entries
            .iter()
            .find(|(k, _)| k.as_str() == Some(key))
            .map(|(_, v)| v)
    }

    pub fn as_dict(&self) -> Option<&[(Value, Value)]> {
        if let Value::Dict(entries) | Value::OrderedDict(entries) = self {
            Some(entries)
        } else {
            None
        }
    }

    /// The items of a list or a tuple.
    pub fn as_items(&self) -> Option<&[Value]> {
        if let Value::List(items) | Value::Tuple(items) = self {
            Some(items)
        } else {
            None
        }
    }

    pub fn as_str(&self) -> Option<&str> {
        if let Value::Str(text) = self {
            Some(text)
        } else {
            None
        }
    }

    pub fn as_bool(&self) -> Option<bool> {
        if let Value::Bool(value) = self {
            Some(*value)
        } else {
            None
        }
    }

    pub fn as_int(&self) -> Option<i64> {
        if let Value::Int(value) = self {
            Some(*value)
        } else {
            None
        }
    }

    /// A float, an int as the nearest float, or the only element of a tensor: a rate may
    /// be any of them.
    pub fn as_number(&self) -> Option<f64> {
        if let Value::Float(value) = self {
            Some(*value)
        } else if let Value::Tensor(tensor) = self {
            let number = tensor.numbers().next();
            number.filter(|_| tensor.elements() == 1)
        } else {
            self.as_int().map(|value| value as f64)
        }
    }

    pub fn as_tensor(&self) -> Option<&Tensor> {
        if let Value::Tensor(tensor) = self {
            Some(tensor)
        } else {
            None
        }
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Value::Bool(value)
    }
}

impl From<i64> for Value {
    fn from(value: i64) -> Self {
        Value::Int(value)
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Value::Float(value)
    }
}

impl From<&str> for Value {
    fn from(value: &str) -> Self {
        Value::Str(value.to_owned())
    }
}

impl From<String> for Value {
    fn from(value: String) -> Self {
        Value::Str(value)
    }
}

impl From<Tensor> for Value {
    fn from(value: Tensor) -> Self {
        Value::Tensor(value)
    }
}

/// Bytes of a dense tensor; `None` if the number does not fit in a `usize`.
pub(super) fn bytes_of(dtype: DType, shape: &[usize]) -> Option<usize> {
    elements_of(shape)?.checked_mul(dtype.size())
}

/// Number of elements: 0 if any dimension is 0, however large the others are.
pub(super) fn elements_of(shape: &[usize]) -> Option<usize> {
    if shape.contains(&0) {
        return Some(0);
    }
    shape
        .iter()
        .try_fold(1_usize, |product, &dim| product.checked_mul(dim))
}

/// A `bfloat16`: the upper half of a `float32`.
fn brain(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

fn chunks<const N: usize>(data: &[u8]) -> impl Iterator<Item = [u8; N]> {
    let (chunks, _) = data.as_chunks::<N>();
    chunks.iter().copied()
}
