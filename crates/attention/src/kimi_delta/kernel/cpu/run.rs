//! Heads and chunks over the threads.
//!
//! Many heads: a thread does one head at a time, chunk by chunk. Few: the chunks of a group are prepared side by side, and the parts of
//! the state's columns, which are independent of one another, go through the group side by side. Neither changes a bit of the results.

use std::ops::Range;

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::{
    backward::{Around, Differentiated, Targets},
    form::Form,
    forward::{Memory, write},
    prepare::Prepared,
    problem::{Place, Problem, Sequence, Sizes},
};
use crate::blocks::simd::{Target, View, scratch};

/// Columns of the state that a thread takes at least.
const COLUMNS: usize = 16;
/// Chunks per group and thread.
const CHUNKS: usize = 4;

/// Where the results of the forward pass go.
pub(crate) struct Outputs<'a> {
    /// `[B, W, T, V]`
    pub(crate) o: Target<'a>,
    /// The states after the sequences. `[N, W, K, V]`
    pub(crate) state: Target<'a>,
    /// The states before the chunks, for the backward pass. `[chunks, W, K, V]`
    pub(crate) states: Option<Target<'a>>,
}

/// How the work on one head is divided.
#[derive(Clone, Copy)]
struct Division {
    /// Chunks that are worked on together.
    group: usize,
    /// Parts of the state's columns.
    parts: usize,
}

impl Division {
    /// For so many heads to be done.
    fn new(form: &impl Form, heads: usize) -> Self {
        let threads = rayon::current_num_threads();
        let sizes = form.sizes();
        let chunks = form.sequences().iter().map(|s| s.len.div_ceil(sizes.chunk)).max().unwrap_or(1);
        if !worth_threads(form) || heads.is_multiple_of(threads) || heads >= 4 * threads || chunks == 1 {
            return Self { group: 1, parts: 1 };
        }
        let each = threads.div_ceil(heads).max(2);
        Self { group: (CHUNKS * each).min(chunks), parts: each.min(sizes.v.div_ceil(COLUMNS)) }
    }

    /// The columns of a part.
    fn columns(self, part: usize, v: usize) -> Range<usize> {
        let width = v.div_ceil(self.parts).next_multiple_of(COLUMNS);
        (part * width).min(v)..((part + 1) * width).min(v)
    }
}

fn worth_threads(form: &impl Form) -> bool {
    const MULTIPLY_ADDS: usize = 1 << 17;
    let sizes = form.sizes();
    let tokens: usize = form.sequences().iter().map(|s| s.len).sum();
    tokens * sizes.w * (3 * sizes.k * sizes.v + sizes.chunk * (sizes.k + sizes.v)) >= MULTIPLY_ADDS
}

/// `task` of each number, on all threads if that is worth it.
fn for_each(count: usize, parallel: bool, task: impl Fn(usize) + Sync + Send) {
    for_each_with(count, parallel, || (), |(), i| task(i));
}

/// As [`for_each`], with a workspace for several tasks one after the other.
fn for_each_with<W>(count: usize, parallel: bool, workspace: impl Fn() -> W + Sync + Send, task: impl Fn(&mut W, usize) + Sync + Send) {
    if parallel && count > 1 {
        (0..count).into_par_iter().for_each_init(workspace, task);
    } else {
        let mut workspace = workspace();
        (0..count).for_each(|i| task(&mut workspace, i));
    }
}

/// The forward pass from the states `initial` `[N, W, K, V]`.
pub(super) fn forward(form: &impl Form, initial: &View, outputs: &Outputs) {
    let w = form.sizes().w;
    let heads = form.sequences().len() * w;
    let division = Division::new(form, heads);
    let v = form.sizes().v;
    let slots = || {
        let slot = |_| ForwardSlot { chunk: form.workspace(), memory: scratch(Memory::len(form.memory_rows(), v)), place: None };
        (0..division.group).map(slot).collect::<Vec<_>>()
    };
    for_each_with(heads, worth_threads(form), slots, |slots, task| {
        forward_head(form, [task / w, task % w], initial, outputs, division, slots);
    });
}

struct ForwardSlot<C> {
    chunk: C,
    memory: Vec<f32>,
    place: Option<Place>,
}

fn forward_head<F: Form>(
    form: &F,
    [number, head]: [usize; 2],
    initial: &View,
    outputs: &Outputs,
    division: Division,
    slots: &mut [ForwardSlot<F::Chunk>],
) {
    let sequence = &form.sequences()[number];
    let sizes = form.sizes();
    let arch = Arch::new();
    let mut current = 0;
    load(sizes, Memory::new(&mut slots[0].memory, sizes.v), initial, number, head);
    for group in groups(sizes, sequence, head, division.group) {
        if group.len() > 1 {
            slots
                .par_iter_mut()
                .zip(&group)
                .for_each(|(slot, place)| arch.dispatch(Fill { chunk: &mut slot.chunk, form, place, ahead: None }));
        } else {
            let ahead = sequence.neighbour(&group[0], sizes.chunk, true);
            arch.dispatch(Fill { chunk: &mut slots[0].chunk, form, place: &group[0], ahead });
        }
        let memories: Vec<Memory> = slots.iter_mut().map(|slot| Memory::new(&mut slot.memory, sizes.v)).collect();
        for (slot, place) in slots.iter_mut().zip(&group) {
            slot.place = Some(*place);
        }
        let first_chunk = sequence.chunks_before + (group[0].start - sequence.start) / sizes.chunk;
        let slots = &slots[..group.len()];
        for_each(division.parts, true, |part| {
            arch.dispatch(Through { form, slots, memories: &memories, outputs, first_chunk, columns: division.columns(part, sizes.v) });
        });
        current = group.len() % division.group;
    }
    let memory = Memory::new(&mut slots[current].memory, sizes.v);
    store(sizes, memory, &outputs.state, number, head, &(0..sizes.v));
}

/// The chunks of a sequence, in groups.
fn groups(sizes: Sizes, sequence: &Sequence, head: usize, size: usize) -> impl DoubleEndedIterator<Item = Vec<Place>> {
    let chunks = sequence.len.div_ceil(sizes.chunk);
    (0..chunks.div_ceil(size)).map(move |group| {
        let first = group * size;
        (first..(first + size).min(chunks)).map(|n| sequence.place(head, n, sizes.chunk)).collect()
    })
}

/// A state `[.., .., K, V]` into the upper part of a memory that nobody else uses.
fn load(sizes: Sizes, memory: Memory, states: &View, number: usize, head: usize) {
    for d in 0..sizes.k {
        // SAFETY: the view has such states; nobody else uses the memory, which has K rows.
        unsafe { memory.part(d, &(0..sizes.v)).copy_from_slice(std::slice::from_raw_parts(states.row(number, head, d), sizes.v)) };
    }
}

/// The inverse of [`load`] for some columns, of states that nobody else writes.
#[inline(always)]
fn store(sizes: Sizes, memory: Memory, states: &Target, number: usize, head: usize, columns: &Range<usize>) {
    let (first, row) = states.rows(number, head, 0);
    for d in 0..sizes.k {
        // SAFETY: one task writes this state's columns, from a memory whose columns it owns.
        unsafe { first.add(d * row + columns.start).copy_from_nonoverlapping(memory.part(d, columns).as_ptr(), columns.len()) };
    }
}

struct Fill<'a, F: Form> {
    chunk: &'a mut F::Chunk,
    form: &'a F,
    place: &'a Place,
    ahead: Option<Place>,
}

impl<F: Form> WithSimd for Fill<'_, F> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        self.form.fill(simd, self.chunk, self.place, self.ahead);
    }
}

/// Some columns of the state through a group of chunks.
struct Through<'a, F: Form> {
    form: &'a F,
    slots: &'a [ForwardSlot<F::Chunk>],
    memories: &'a [Memory],
    outputs: &'a Outputs<'a>,
    first_chunk: usize,
    columns: Range<usize>,
}

impl<F: Form> WithSimd for Through<'_, F> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { form, slots, memories, outputs, first_chunk, columns } = self;
        for (i, slot) in slots.iter().enumerate() {
            let Some(place) = &slot.place else { continue };
            let (memory, next) = (memories[i], memories[(i + 1) % memories.len()]);
            if let Some(states) = &outputs.states {
                store(form.sizes(), memory, states, first_chunk + i, place.head, &columns);
            }
            // SAFETY: this task alone has these columns.
            unsafe { form.through(simd, &slot.chunk, place, [memory, next], &outputs.o, columns.clone()) };
        }
    }
}

/// What the backward pass reads besides the problem.
pub(crate) struct Cotangents<'a> {
    /// The states before the chunks. `[chunks, W, K, V]`
    pub(crate) states: View<'a>,
    /// Gradient of the outputs. `[B, W, T, V]`
    pub(crate) o: View<'a>,
    /// Gradient of the states after the sequences. `[N, W, K, V]`
    pub(crate) state: View<'a>,
}

/// The backward pass; `d_state`, the gradient of the initial states: `[N, W, K, V]`.
pub(crate) fn backward(problem: &Problem, cotangents: &Cotangents, targets: &Targets, d_state: &Target) {
    let h = problem.sizes.h;
    let heads = problem.sequences.len() * h;
    let division = Division::new(problem, heads);
    let workspace = || BackwardWorkspace::new(problem.sizes, division);
    for_each_with(heads, worth_threads(problem), workspace, |workspace, task| {
        backward_heads(problem, [task / h, task % h], cotangents, targets, d_state, division, workspace);
    });
}

struct BackwardSlot {
    chunk: Prepared,
    memory: Vec<f32>,
    differentiated: Differentiated,
}

struct BackwardWorkspace {
    /// One per chunk of a group.
    slots: Vec<BackwardSlot>,
    /// Gradients of the states before the chunks of a group, and of that behind the last.
    d_states: Vec<Vec<f32>>,
}

impl BackwardWorkspace {
    fn new(sizes: Sizes, division: Division) -> Self {
        let slot = |_| BackwardSlot {
            chunk: Prepared::new(sizes),
            memory: scratch(Memory::len(sizes.k + sizes.chunk, sizes.v)),
            differentiated: Differentiated::new(sizes),
        };
        Self {
            slots: (0..division.group).map(slot).collect(),
            d_states: (0..=division.group).map(|_| scratch(Memory::len(sizes.k, sizes.v))).collect(),
        }
    }
}

/// The value heads that read one query/key head, one after the other.
fn backward_heads(
    problem: &Problem,
    [number, group_head]: [usize; 2],
    cotangents: &Cotangents,
    targets: &Targets,
    d_initial: &Target,
    division: Division,
    BackwardWorkspace { slots, d_states }: &mut BackwardWorkspace,
) {
    let sequence = &problem.sequences[number];
    let sizes = problem.sizes;
    let arch = Arch::new();
    let per_group = sizes.w / sizes.h;
    for head in group_head * per_group..(group_head + 1) * per_group {
        load(sizes, Memory::new(&mut d_states[0], sizes.v), &cotangents.state, number, head);
        for group in groups(sizes, sequence, head, division.group).rev() {
            d_states.swap(0, group.len());
            let first_chunk = sequence.chunks_before + (group[0].start - sequence.start) / sizes.chunk;
            let parallel = group.len() > 1;
            each_slot(slots, parallel, group.len(), |i, slot| {
                let memory = Memory::new(&mut slot.memory, sizes.v);
                load(sizes, memory, &cotangents.states, first_chunk + i, head);
                let ahead = if parallel { None } else { sequence.neighbour(&group[i], sizes.chunk, false) };
                arch.dispatch(Again { problem, place: &group[i], ahead, slot, memory, d_o: &cotangents.o });
            });
            let d_memories: Vec<Memory> = d_states.iter_mut().map(|d| Memory::new(d, sizes.v)).collect();
            let upstream: Vec<Upstream> = slots.iter_mut().map(|slot| Upstream(slot.differentiated.upstream())).collect();
            let chunks = &slots[..group.len()];
            for_each(division.parts, true, |part| {
                let columns = division.columns(part, sizes.v);
                arch.dispatch(Back { slots: chunks, upstream: &upstream, d_memories: &d_memories, columns });
            });
            each_slot(slots, parallel, group.len(), |i, slot| {
                arch.dispatch(Inputs { problem, place: &group[i], slot, d_state: d_memories[i + 1], targets });
            });
        }
        store(sizes, Memory::new(&mut d_states[0], sizes.v), d_initial, number, head, &(0..sizes.v));
    }
}

fn each_slot(slots: &mut [BackwardSlot], parallel: bool, count: usize, f: impl Fn(usize, &mut BackwardSlot) + Sync + Send) {
    if parallel {
        slots[..count].par_iter_mut().enumerate().for_each(|(i, slot)| f(i, slot));
    } else {
        slots[..count].iter_mut().enumerate().for_each(|(i, slot)| f(i, slot));
    }
}

/// Computes a chunk and its writes again.
struct Again<'a> {
    problem: &'a Problem<'a>,
    place: &'a Place,
    ahead: Option<Place>,
    slot: &'a mut BackwardSlot,
    memory: Memory,
    d_o: &'a View<'a>,
}

impl WithSimd for Again<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { problem, place, ahead, slot, memory, d_o } = self;
        slot.chunk.fill(simd, problem, place, ahead);
        // SAFETY: this task alone has the slot.
        unsafe { write(simd, problem, place, &slot.chunk, memory, 0..problem.sizes.v) };
        slot.differentiated.load(problem, place, ahead, d_o);
    }
}

/// The rows of a slot's workspace, to be written by columns.
struct Upstream(*mut f32);

// SAFETY: every task writes its own columns.
unsafe impl Sync for Upstream {}
// SAFETY: as above.
unsafe impl Send for Upstream {}

/// Some columns of the gradient of the state through a group of chunks, against their order.
struct Back<'a> {
    slots: &'a [BackwardSlot],
    upstream: &'a [Upstream],
    d_memories: &'a [Memory],
    columns: Range<usize>,
}

impl WithSimd for Back<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        for (i, slot) in self.slots.iter().enumerate().rev() {
            let (behind, before) = (self.d_memories[i + 1], self.d_memories[i]);
            // SAFETY: this task alone has these columns.
            unsafe { Differentiated::carry(self.upstream[i].0, simd, &slot.chunk, behind, before, self.columns.clone()) };
        }
    }
}

/// The gradients of the inputs of a chunk.
struct Inputs<'a> {
    problem: &'a Problem<'a>,
    place: &'a Place,
    slot: &'a mut BackwardSlot,
    d_state: Memory,
    targets: &'a Targets<'a>,
}

impl WithSimd for Inputs<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { problem, place, slot, d_state, targets } = self;
        let memory = Memory::new(&mut slot.memory, problem.sizes.v);
        // SAFETY: this task alone has the slot, and this chunk's rows of the targets.
        unsafe { slot.differentiated.inputs(simd, problem, place, &slot.chunk, Around { memory, d_state }, targets) };
    }
}
