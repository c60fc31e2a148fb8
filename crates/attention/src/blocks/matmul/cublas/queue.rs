//! Tasks for the thread that owns the device.

use std::{cell::RefCell, collections::HashMap, sync::LazyLock};

use burn_cubecl::tensor::CubeTensor;
use cubecl::{client::Client, cuda::CudaRuntime, device_handle::DeviceHandle, server::ServerError};
use cubecl_environment::{backtrace::BackTrace, stream::StreamId};
use cubecl_server::{
    runtime::Runtime,
    server::{BufferBinding, ServerStorage},
    storage::{ComputeStorage, ManagedResource},
    stream::{ExecuteScope, WriteScoped, failed_writing},
};
use cudarc::cublaslt::{
    result::{self, CublasError},
    sys,
};

use super::plan::{Addresses, Plan, Problem, WORKSPACE};

type Server = <CudaRuntime as Runtime>::Server;

/// Whether the library is on this machine.
static PRESENT: LazyLock<bool> = LazyLock::new(|| {
    // SAFETY: it tries to open the library under the names that it may have.
    let present = unsafe { sys::is_culib_present() };
    if !present {
        log::warn!("cuBLASLt was not found: products of matrices on NVIDIA GPUs are slow, and those of f32 have 11 bits (TF32)");
    }
    present
});

/// Whether products on the device of this client can be queued here.
pub(super) fn reaches(client: &Client) -> bool {
    client.service_id().service == std::any::TypeId::of::<Server>() && *PRESENT
}

/// Queues a product behind all that was launched before; a failure is reported when `out` is read.
pub(super) fn submit(problem: Problem, [left, right]: [&CubeTensor; 2], bias: Option<&CubeTensor>, out: &CubeTensor) {
    let stream = out.handle.stream;
    let binding = |x: &CubeTensor| x.handle.clone().binding();
    let (inputs, bias, out) = ([left, right].map(binding), bias.map(binding), binding(out));
    let workspace = left.client.empty(WORKSPACE).binding();
    let device = out.service.device;
    DeviceHandle::<Server>::new(device).submit(move |server| {
        let written = vec![out.clone()];
        // A claim on what is to be written hides its address.
        match [out, workspace].map(|binding| server.get_resource(binding, stream)) {
            [Ok(out), Ok(workspace)] => {
                let task = |server: &mut Server| run(server, stream, &problem, inputs, bias, [&out, &workspace]);
                // A failure stays with the memory that was to be written.
                let _ = ExecuteScope::over(server, stream, written).execute(task);
            }
            [Err(error), _] | [_, Err(error)] => failed_writing(server, stream, written, error),
        }
    });
}

/// What the thread of a device keeps.
struct Library {
    handle: sys::cublasLtHandle_t,
    plans: HashMap<(Problem, [u32; 3]), Plan>,
}

thread_local! {
    static LIBRARY: RefCell<Option<Library>> = const { RefCell::new(None) };
}

type Resource = ManagedResource<<<Server as ServerStorage>::Storage as ComputeStorage>::Resource>;

fn run(
    server: &mut Server,
    stream: StreamId,
    problem: &Problem,
    inputs: [BufferBinding; 2],
    bias: Option<BufferBinding>,
    [out, workspace]: [&Resource; 2],
) -> Result<(), ServerError> {
    let read: Vec<BufferBinding> = inputs.into_iter().chain(bias).collect();
    // Each keeps its memory until the product is queued.
    let resources = read.iter().map(|binding| server.get_resource(binding.clone(), stream)).collect::<Result<Vec<_>, _>>()?;
    let address = |resource: &Resource| resource.resource().ptr;
    let addresses = Addresses {
        left: address(&resources[0]),
        right: address(&resources[1]),
        bias: resources.get(2).map(address),
        out: address(out),
        workspace: address(workspace),
    };
    // The stream waits for those on which the inputs were made; dropped after the product is queued, this keeps their memory from them
    // until it has run.
    let mut streams = server.write_streams().resolve(stream, read.iter())?;
    let on = streams.current().sys;
    queue(problem, &addresses, on.cast())
        .map_err(|e| ServerError::Generic { reason: format!("cuBLASLt: {e} in {problem:?}"), backtrace: BackTrace::capture() })
}

fn queue(problem: &Problem, addresses: &Addresses, stream: sys::cudaStream_t) -> Result<(), CublasError> {
    LIBRARY.with_borrow_mut(|library| {
        let library = match library {
            Some(library) => library,
            None => library.insert(Library { handle: result::create_handle()?, plans: HashMap::new() }),
        };
        let alignments = addresses.alignments();
        let key = (*problem, alignments);
        if !library.plans.contains_key(&key) {
            library.plans.insert(key, Plan::new(library.handle, problem, alignments)?);
        }
        // SAFETY: the server has the memory of these buffers reserved and in place until the task ends, and orders its reuse behind what
        // is on the stream; the sizes of the buffers are those of the tensors that the problem describes.
        unsafe { library.plans[&key].run(library.handle, addresses, stream) }
    })
}
