//! The globals in a pickle, by their meaning here. None is looked up.

use super::value::DType;

/// A global in a pickle, by its meaning here.
#[derive(Clone, Copy)]
pub enum Global<'a> {
    OrderedDict,
    RebuildTensor,
    RebuildParameter,
    Size,
    Device,
    /// `torch.float32` and the like: a constant.
    DTypeName(&'a str),
    Storage(DType),
    /// Unsupported element types, and functions that create tensors that are not dense:
    /// `sparse`, `complex64`.
    Unusual(&'a str),
    /// `_rebuild_tensor_v3`: a tensor whose type has no storage class.
    RebuildUntyped,
    RebuildWithState,
    RebuildFromType,
    DefaultDict,
    /// `_codecs.encode`, which creates bytes.
    Encode,
    NumpyDType,
    NumpyScalar,
    /// Python's own types without a meaning here: `set`, `complex`.
    Builtin(&'a str),
    Foreign(&'a str, &'a str),
}

impl<'a> Global<'a> {
    pub fn resolve(module: &'a str, name: &'a str) -> Self {
        let storage = DType::ALL.iter().find(|d| d.storage_class() == name);
        match (module, name, storage) {
            ("collections", "OrderedDict", _) => Self::OrderedDict,
            ("collections", "defaultdict", _) => Self::DefaultDict,
            ("_codecs", "encode", _) => Self::Encode,
            ("builtins" | "__builtin__", name, _) if BUILTINS.contains(&name) => {
                Self::Builtin(name)
            }
            ("numpy", "dtype", _) => Self::NumpyDType,
            ("numpy._core.multiarray" | "numpy.core.multiarray", "scalar", _) => Self::NumpyScalar,
            ("torch._utils", "_rebuild_tensor_v2", _) => Self::RebuildTensor,
            ("torch._utils", "_rebuild_tensor_v3", _) => Self::RebuildUntyped,
            ("torch._utils", "_rebuild_parameter", _) => Self::RebuildParameter,
            ("torch._utils", "_rebuild_parameter_with_state", _) => Self::RebuildWithState,
            ("torch._tensor", "_rebuild_from_type_v2", _) => Self::RebuildFromType,
            ("torch._utils", name, _) if unusual_maker(name).is_some() => {
                Self::Unusual(unusual_maker(name).unwrap_or(name))
            }
            ("torch.serialization", "_get_layout", _) => Self::Builtin("torch.layout"),
            ("torch.storage", "UntypedStorage", _) => Self::Unusual("untyped"),
            ("torch", "Size", _) => Self::Size,
            ("torch", "device", _) => Self::Device,
            ("torch", "Tensor", _) => Self::DTypeName("Tensor"),
            ("torch", _, Some(&dtype)) => Self::Storage(dtype),
            ("torch", name, None) if name.ends_with("Storage") => Self::Unusual(element(name)),
            ("torch", name, None) if is_constant(name) => Self::DTypeName(name),
            _ => Self::Foreign(module, name),
        }
    }

    /// Bytes per element of a storage class.
    pub fn width(self) -> Option<usize> {
        if let Self::Storage(dtype) = self {
            return Some(dtype.size());
        }
        let Self::Unusual(kind) = self else {
            return None;
        };
        match kind {
            "untyped" | "qint8" | "quint8" | "quint4x2" | "quint2x4" => Some(1),
            "qint32" => Some(4),
            "complex64" => Some(8),
            "complex128" => Some(16),
            _ => None,
        }
    }

    pub fn class(self) -> String {
        match self {
            Self::OrderedDict => "collections.OrderedDict".to_owned(),
            Self::RebuildTensor => "torch._utils._rebuild_tensor_v2".to_owned(),
            Self::RebuildParameter => "torch._utils._rebuild_parameter".to_owned(),
            Self::Size => "torch.Size".to_owned(),
            Self::Device => "torch.device".to_owned(),
            Self::DTypeName(name) => format!("torch.{name}"),
            Self::Storage(dtype) => format!("torch.{}", dtype.storage_class()),
            Self::Unusual(kind) => format!("{kind} tensor"),
            Self::RebuildUntyped => "torch._utils._rebuild_tensor_v3".to_owned(),
            Self::RebuildWithState => "torch._utils._rebuild_parameter_with_state".to_owned(),
            Self::RebuildFromType => "torch._tensor._rebuild_from_type_v2".to_owned(),
            Self::DefaultDict => "collections.defaultdict".to_owned(),
            Self::Encode => "_codecs.encode".to_owned(),
            Self::NumpyDType => "numpy.dtype".to_owned(),
            Self::NumpyScalar => "numpy scalar".to_owned(),
            Self::Builtin(name) => name.to_owned(),
            Self::Foreign(module, name) => format!("{module}.{name}"),
        }
    }
}

/// Python's own types that a config may contain.
const BUILTINS: [&str; 8] = [
    "set",
    "frozenset",
    "complex",
    "bytearray",
    "slice",
    "range",
    "dict",
    "list",
];

/// Whether a name is a constant of PyTorch: a dtype, quantization scheme or layout. A word
/// with digits, such as `float8_e5m2`, is a dtype.
fn is_constant(name: &str) -> bool {
    const NAMES: [&str; 8] = [
        "bool",
        "strided",
        "sparse_coo",
        "sparse_csr",
        "per_tensor_affine",
        "per_channel_affine",
        "preserve_format",
        "contiguous_format",
    ];
    let word = name.trim_start_matches(|c: char| c.is_ascii_lowercase());
    let numbered = word.starts_with(|c: char| c.is_ascii_digit());
    let kind = name.strip_suffix(word).unwrap_or_default();
    let kinds = [
        "float", "bfloat", "int", "uint", "complex", "qint", "quint", "bits",
    ];
    NAMES.contains(&name) || (numbered && kinds.contains(&kind))
}

/// Functions of `torch._utils` that create tensors without plain elements.
fn unusual_maker(function: &str) -> Option<&'static str> {
    match function {
        "_rebuild_sparse_tensor" | "_rebuild_sparse_csr_tensor" => Some("sparse"),
        "_rebuild_qtensor" => Some("quantized"),
        "_rebuild_nested_tensor" => Some("nested"),
        "_rebuild_meta_tensor_no_storage" => Some("meta"),
        "_rebuild_wrapper_subclass" => Some("subclassed"),
        "_rebuild_device_tensor_from_numpy" | "_rebuild_device_tensor_from_cpu_tensor" => {
            Some("device")
        }
        _ => None,
    }
}

/// PyTorch's name of a storage class's element type.
fn element(storage: &str) -> &str {
    match storage {
        "ComplexFloatStorage" => "complex64",
        "ComplexDoubleStorage" => "complex128",
        "QInt8Storage" => "qint8",
        "QUInt8Storage" => "quint8",
        "QInt32Storage" => "qint32",
        "QUInt4x2Storage" => "quint4x2",
        "QUInt2x4Storage" => "quint2x4",
        other => other,
    }
}
