//! Compiles the C interface to c10d against the libtorch that torch-sys found, with NCCL if its library and its headers
//! are installed.

#![allow(
    clippy::print_stdout,
    reason = "cargo reads a build script's standard output"
)]

use std::path::{Path, PathBuf};

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=cpp");
    println!("cargo:rerun-if-env-changed=DEP_TCH_LIBTORCH_LIB");
    println!("cargo:rerun-if-env-changed=LIBTORCH_INCLUDE");
    println!("cargo:rerun-if-env-changed=NCCL_INCLUDE_DIR");
    println!("cargo:rerun-if-env-changed=CUDA_HOME");
    let Some(libraries) = std::env::var_os("DEP_TCH_LIBTORCH_LIB").map(PathBuf::from) else {
        println!("cargo:warning=torch-sys did not say where libtorch is");
        return;
    };
    // As in torch-sys: LIBTORCH_INCLUDE, or next to the libraries.
    let include = std::env::var_os("LIBTORCH_INCLUDE").map_or_else(
        || libraries.join("../include"),
        |folder| PathBuf::from(folder).join("include"),
    );
    println!("cargo:rustc-link-arg=-Wl,-rpath,{}", libraries.display());

    let mut build = cc::Build::new();
    build
        .cpp(true)
        .std("c++20")
        .file("cpp/bridge.cpp")
        .include("cpp")
        .define("_GLIBCXX_USE_CXX11_ABI", "1")
        .define("USE_DISTRIBUTED", None)
        .define("USE_C10D_GLOO", None)
        // System headers: no warnings about PyTorch's code.
        .flag(format!("-isystem{}", include.display()))
        .flag(format!(
            "-isystem{}",
            include.join("torch/csrc/api/include").display()
        ));
    if let Some(folders) = nccl(&libraries) {
        build
            .define("TINYGATE_NCCL", None)
            .define("USE_C10D_NCCL", None);
        for folder in folders {
            build.flag(format!("-isystem{}", folder.display()));
        }
        println!("cargo:rustc-link-lib=torch_cuda");
    }
    build.compile("tinygate_c10d");
    if std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|system| system == "linux") {
        // `dlopen`, which older C libraries have in a library of its own.
        println!("cargo:rustc-link-lib=dl");
    }
}

/// Headers that c10d's NCCL header includes, directly or indirectly.
const HEADERS: [&str; 7] = [
    "nccl.h",
    "cuda_runtime_api.h",
    "crt/host_config.h",
    "nv/target",
    "cublas_v2.h",
    "cusolverDn.h",
    "cusparse.h",
];

/// Folders with the headers of NCCL and CUDA, for a libtorch with CUDA.
fn nccl(libraries: &Path) -> Option<Vec<PathBuf>> {
    if !libraries.join("libtorch_cuda.so").exists() {
        return None;
    }
    // NVIDIA's wheels are installed next to torch; otherwise there may be a CUDA toolkit.
    let beside = libraries.join("../../nvidia");
    let mut places = vec![beside.join("nccl/include"), beside.join("cu13/include")];
    places.extend(std::env::var_os("NCCL_INCLUDE_DIR").map(PathBuf::from));
    let toolkit = std::env::var_os("CUDA_HOME")
        .map_or_else(|| PathBuf::from("/usr/local/cuda"), PathBuf::from);
    places.extend([
        toolkit.join("include"),
        toolkit.join("include/cccl"),
        PathBuf::from("/usr/include"),
    ]);
    let mut found: Vec<PathBuf> = Vec::new();
    for header in HEADERS {
        let Some(place) = places.iter().find(|place| place.join(header).exists()) else {
            println!(
                "cargo:warning=libtorch has CUDA, but `{header}` is not found: ranks on GPUs will use Gloo on the CPU; \
                 set NCCL_INCLUDE_DIR and CUDA_HOME, or install the wheels nvidia-nccl-cu13, nvidia-cuda-crt and nvidia-cuda-cccl"
            );
            return None;
        };
        if !found.contains(place) {
            found.push(place.clone());
        }
    }
    Some(found)
}
