//! Finding and loading ggml's libraries, and what they say about the machine.

use std::ffi::{CStr, CString};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_sys_2 as sys;

use super::{fault, log, text_from};

/// Why llama.cpp cannot start.
#[derive(Debug, Clone, thiserror::Error)]
pub enum BackendError {
    /// The folder with ggml's libraries is not where the executable looks for it.
    #[error("llama.cpp's CPU libraries are missing; looked in {}", list(.looked_in))]
    Missing {
        /// Every folder that was tried.
        looked_in: Vec<PathBuf>,
    },
    /// The folder is there, but nothing in it runs on this CPU.
    #[error("none of llama.cpp's CPU libraries in {} runs on this machine", folder.display())]
    Unusable {
        /// The folder.
        folder: PathBuf,
    },
    /// The folder's path cannot be handed to C.
    #[error("the path of llama.cpp's libraries, {folder:?}, is not UTF-8")]
    Path {
        /// The folder.
        folder: PathBuf,
    },
    /// llama.cpp refused to start.
    #[error("llama.cpp did not start: {reason}")]
    Start {
        /// What llama.cpp said.
        reason: String,
    },
}

fn list(folders: &[PathBuf]) -> String {
    folders
        .iter()
        .map(|f| f.display().to_string())
        .collect::<Vec<_>>()
        .join(" and ")
}

/// llama.cpp, started: proof that models may be loaded.
#[derive(Debug)]
pub struct Backend {
    _started: LlamaBackend,
    folder: PathBuf,
    variant: Option<String>,
    features: Vec<(String, String)>,
}

impl Backend {
    /// The folder that the CPU library was loaded from.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The CPU library that ggml chose, for instance `zen4` or `haswell`; `None` where the system does
    /// not tell.
    #[must_use]
    pub fn variant(&self) -> Option<&str> {
        self.variant.as_deref()
    }

    /// What the chosen library uses, as ggml names it: `("AVX512", "1")` and so on.
    #[must_use]
    pub fn features(&self) -> &[(String, String)] {
        &self.features
    }

    /// Whether it uses this feature.
    #[must_use]
    pub fn has(&self, feature: &str) -> bool {
        let mut features = self.features.iter();
        features.any(|(name, value)| name == feature && value != "0")
    }
}

/// Starts llama.cpp on the first call; later calls return the same backend or the same error.
///
/// # Errors
/// When ggml's libraries are missing beside the executable or do not run on this machine.
pub fn backend() -> Result<&'static Backend, BackendError> {
    static BACKEND: OnceLock<Result<Backend, BackendError>> = OnceLock::new();
    BACKEND.get_or_init(start).as_ref().map_err(Clone::clone)
}

/// A processor that ggml found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Whether it is a GPU, with memory of its own or without.
    pub is_gpu: bool,
    /// Its library's name: `CPU`, `CUDA`.
    pub backend: String,
    /// Its own name, for instance `AMD EPYC 9354P`.
    pub description: String,
}

/// The processors that the loaded libraries found.
#[must_use]
pub fn devices(_started: &Backend) -> Vec<Device> {
    // SAFETY: the libraries are loaded; the list of devices does not change after that. Every index below
    // the count gives a device, every device has a library and both have static names.
    unsafe {
        (0..sys::ggml_backend_dev_count())
            .map(|i| {
                let device = sys::ggml_backend_dev_get(i);
                let library = sys::ggml_backend_dev_backend_reg(device);
                Device {
                    is_gpu: matches!(
                        sys::ggml_backend_dev_type(device),
                        sys::GGML_BACKEND_DEVICE_TYPE_GPU | sys::GGML_BACKEND_DEVICE_TYPE_IGPU
                    ),
                    backend: text_from(sys::ggml_backend_reg_name(library)),
                    description: text_from(sys::ggml_backend_dev_description(device)),
                }
            })
            .collect()
    }
}

/// A device that layers can be put on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gpu {
    /// ggml's short name: `CUDA0`, `RPC0`.
    pub name: String,
    /// For instance `NVIDIA H100 80GB HBM3`.
    pub description: String,
    /// Bytes of its memory that nothing uses now.
    pub free: u64,
    /// Bytes of its memory.
    pub total: u64,
    /// Its memory is the processor's, too.
    pub shares_memory: bool,
}

/// The devices that llama.cpp spreads a model's layers over, in its order: workers, then GPUs, and those that
/// are a part of the processor only where there is no other. Asks each for its memory.
#[must_use]
pub fn gpus(_started: &Backend) -> Vec<Gpu> {
    let (mut workers, mut gpus, mut integrated) = (Vec::new(), Vec::new(), Vec::new());
    // SAFETY: the libraries are loaded; the list of devices changes only where workers are added, before
    // anybody asks. Every index below the count gives a device, every device has a library, and both have
    // names that live as long. The sizes are written during the call.
    unsafe {
        for i in 0..sys::ggml_backend_dev_count() {
            let device = sys::ggml_backend_dev_get(i);
            let library = text_from(sys::ggml_backend_reg_name(
                sys::ggml_backend_dev_backend_reg(device),
            ));
            let kind = sys::ggml_backend_dev_type(device);
            let list = match kind {
                sys::GGML_BACKEND_DEVICE_TYPE_GPU if library == "RPC" => &mut workers,
                sys::GGML_BACKEND_DEVICE_TYPE_GPU => &mut gpus,
                sys::GGML_BACKEND_DEVICE_TYPE_IGPU => &mut integrated,
                _ => continue,
            };
            let (mut free, mut total) = (0usize, 0usize);
            sys::ggml_backend_dev_memory(device, &raw mut free, &raw mut total);
            list.push(Gpu {
                name: text_from(sys::ggml_backend_dev_name(device)),
                description: text_from(sys::ggml_backend_dev_description(device)),
                free: free as u64,
                total: total as u64,
                // Apple's GPUs are of the first kind, but have no memory of their own.
                shares_memory: kind == sys::GGML_BACKEND_DEVICE_TYPE_IGPU || library == "MTL",
            });
        }
    }
    workers.extend(if gpus.is_empty() { integrated } else { gpus });
    workers
}

/// The libraries for GPUs in the folder, by ggml's names: `cuda`, `vulkan`.
#[must_use]
pub fn gpu_libraries(started: &Backend) -> Vec<String> {
    let prefix = format!("{}ggml-", std::env::consts::DLL_PREFIX);
    let Ok(entries) = std::fs::read_dir(started.folder()) else {
        return Vec::new();
    };
    let mut names: Vec<String> = entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name();
            let name = name.to_str()?.strip_prefix(&prefix)?;
            let name = name.strip_suffix(std::env::consts::DLL_SUFFIX)?;
            let other = name.starts_with("cpu") || matches!(name, "base" | "rpc" | "blas");
            (!other).then(|| name.to_owned())
        })
        .collect();
    names.sort();
    names
}

/// Tells ggml how to spread its threads, before any of them starts. Only the first call counts.
pub fn init_numa(_started: &Backend, numa: super::Numa) {
    static DONE: std::sync::Once = std::sync::Once::new();
    // SAFETY: llama.cpp has started; the call changes ggml's own state, once.
    DONE.call_once(|| unsafe { sys::llama_numa_init(numa.raw()) });
}

fn start() -> Result<Backend, BackendError> {
    log::redirect();
    fault::contain();
    let candidates = candidates();
    let Some(folder) = candidates.iter().find(|folder| has_cpu_library(folder)) else {
        return Err(BackendError::Missing {
            looked_in: candidates,
        });
    };
    let path = folder
        .to_str()
        .and_then(|path| CString::new(path).ok())
        .ok_or_else(|| BackendError::Path {
            folder: folder.clone(),
        })?;
    // SAFETY: `path` is a NUL-terminated string that outlives the call. The libraries in the folder are
    // part of this program: whoever can write there can replace the executable as well.
    unsafe { sys::ggml_backend_load_all_from_path(path.as_ptr()) };
    let started = LlamaBackend::init().map_err(|e| BackendError::Start {
        reason: e.to_string(),
    })?;
    // SAFETY: a NUL-terminated constant; the registry returns null when there is no such backend.
    let cpu = unsafe { sys::ggml_backend_reg_by_name(c"CPU".as_ptr()) };
    if cpu.is_null() {
        return Err(BackendError::Unusable {
            folder: folder.clone(),
        });
    }
    let backend = Backend {
        _started: started,
        folder: folder.clone(),
        variant: variant(),
        features: features(cpu),
    };
    tracing::info!(variant = backend.variant().unwrap_or("?"), folder = %folder.display(), "CPU library");
    Ok(backend)
}

/// Where the libraries may be: `backends` beside the executable, or beside it directly. Test
/// executables lie in `deps` and `examples`, one folder deeper.
fn candidates() -> Vec<PathBuf> {
    let Ok(executable) = std::env::current_exe().and_then(|path| path.canonicalize()) else {
        return Vec::new();
    };
    let Some(folder) = executable.parent() else {
        return Vec::new();
    };
    let mut candidates = vec![folder.join("backends"), folder.to_owned()];
    if (folder.ends_with("deps") || folder.ends_with("examples"))
        && let Some(profile) = folder.parent()
    {
        candidates.insert(0, profile.join("backends"));
    }
    candidates
}

fn has_cpu_library(folder: &Path) -> bool {
    let prefix = format!("{}ggml-cpu", std::env::consts::DLL_PREFIX);
    let Ok(entries) = std::fs::read_dir(folder) else {
        return false;
    };
    entries.flatten().any(|entry| {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        name.starts_with(&prefix) && name.ends_with(std::env::consts::DLL_SUFFIX)
    })
}

/// Looks up a function that the CPU library exports through ggml's registry.
pub(super) fn cpu_function(name: &CStr) -> *mut std::ffi::c_void {
    // SAFETY: NUL-terminated constants; both calls accept and return null.
    unsafe {
        let cpu = sys::ggml_backend_reg_by_name(c"CPU".as_ptr());
        if cpu.is_null() {
            return std::ptr::null_mut();
        }
        sys::ggml_backend_reg_get_proc_address(cpu, name.as_ptr())
    }
}

fn features(cpu: sys::ggml_backend_reg_t) -> Vec<(String, String)> {
    let function = cpu_function(c"ggml_backend_get_features");
    if function.is_null() {
        return Vec::new();
    }
    // SAFETY: under this name the registry gives a function of type ggml_backend_get_features_t
    // (ggml-backend.h); it is not null.
    let function: unsafe extern "C" fn(sys::ggml_backend_reg_t) -> *mut sys::ggml_backend_feature =
        unsafe { std::mem::transmute(function) };
    let mut found = Vec::new();
    // SAFETY: the function takes the registry entry it came from and returns a static array of pairs of
    // C strings that ends with a null name.
    unsafe {
        let mut feature = function(cpu);
        while !feature.is_null() && !(*feature).name.is_null() {
            found.push((text_from((*feature).name), text_from((*feature).value)));
            feature = feature.add(1);
        }
    }
    found
}

/// Asks the dynamic loader which file the CPU library came from.
#[cfg(unix)]
fn variant() -> Option<String> {
    let function = cpu_function(c"ggml_backend_get_features");
    if function.is_null() {
        return None;
    }
    // SAFETY: Dl_info is plain data, for which zero is a valid value; dladdr fills it for any address and
    // returns 0 when the address belongs to no library. The name it gives lives as long as the library,
    // which ggml never unloads.
    let path = unsafe {
        let mut info: libc::Dl_info = std::mem::zeroed();
        if libc::dladdr(function, &raw mut info) == 0 {
            return None;
        }
        text_from(info.dli_fname)
    };
    let stem = Path::new(&path).file_stem()?.to_str()?;
    let variant = stem
        .strip_prefix(std::env::consts::DLL_PREFIX)?
        .strip_prefix("ggml-cpu")?;
    Some(variant.strip_prefix('-').unwrap_or("generic").to_owned())
}

#[cfg(not(unix))]
fn variant() -> Option<String> {
    None
}
