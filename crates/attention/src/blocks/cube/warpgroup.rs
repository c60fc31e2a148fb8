//! Products of tiles by the four planes of a warpgroup at once, on NVIDIA's compute capability 9.0 (`wgmma`). They run beside what follows
//! them, until [`finish`].
//!
//! Each plane holds 16 of 64 rows in registers, laid out as in [`tiles`](super::tiles) with M = 1; the other operand is read from shared
//! memory, from tiles in panels of 64 numbers, 128 bytes, of which the 16-byte pieces are exchanged by row (the 128-byte swizzle).

use std::fmt::Write as _;

use cubecl::{frontend::barrier::copy_async_checked, prelude::*};

/// 16-byte pieces in a row of a panel.
const PIECES: usize = 8;

/// As [`load_tile`](super::tiles::load_tile), into panels; of 16-bit numbers.
#[cube]
pub(crate) fn load_panels<E: Float, N: Size>(
    from: &Tensor<Vector<E, N>>,
    start: usize,
    stride: usize,
    valid: usize,
    to: &mut Shared<[Vector<E, N>]>,
    to_start: usize,
    #[comptime] count: usize,
    #[comptime] width: usize,
    #[comptime] units: usize,
) {
    #[unroll]
    for step in 0..comptime!(count * width / units) {
        let at = UNIT_POS as usize + comptime!(step * units);
        let row = at / width;
        let column = at % width;
        let place = to_start + (column / PIECES * count + row) * PIECES + ((column ^ row) % PIECES);
        let present = row < valid;
        let source = start + select(present, row * stride + column, 0usize);
        let end = source + select(present, 1usize, 0usize);
        copy_async_checked(&from[source..end], &mut to[place..place + 1], 8u32);
    }
}

/// Waits for the unit's own copies and lets products see them, after `sync_cube`.
#[cube]
pub(crate) fn await_panels() {
    gpu_asm!("cp.async.wait_all;");
    gpu_asm!("fence.proxy.async.shared::cta;");
}

/// What a product is told of a tile of 64-number panels that starts at `at`: its address, `leading` bytes from one panel to the next (read
/// if the tile's rows are what is summed over), 1024 bytes from eight rows to the next, the swizzle of 128 bytes.
#[cube]
pub(crate) fn describe<E: Float, N: Size>(tile: &Shared<[Vector<E, N>]>, at: usize, #[comptime] leading: usize) -> u64 {
    let piece = &tile[at..at + 1];
    let address: u32;
    gpu_asm!(
        "{{ .reg .b64 a; cvta.to.shared.u64 a, {piece}; cvt.u32.u64 {address}, a; }}",
        piece = in(_) piece.as_ptr(), address = out(_) address, options(nomem)
    );
    let constant = comptime!((1u64 << 62) | (64u64 << 32) | ((leading as u64 / 16) << 16));
    u64::cast_from((address & 0x3ffffu32) >> 4u32) | constant
}

/// `A Bᵀ` of the plane's 16 rows, in fragments of 16×16 one after another, and `8 n_tiles` rows of panels.
#[cube]
pub(crate) fn start_rows<E: Float, A: Size, D: Size>(
    fragments: Vector<u32, A>,
    panels: u64,
    #[comptime] n_tiles: usize,
    #[comptime] steps: usize,
    #[comptime] element: &'static str,
) -> Vector<f32, D> {
    let text = comptime!(rows_text(n_tiles, steps, element));
    let sums: Vector<f32, D>;
    gpu_asm!(
        "{text} // {sums} {fragments} {panels}",
        fragments = in(_) Vector::<u32, A>::cast_from(fragments), panels = in(_) panels, sums = out(_) sums,
    );
    sums
}

/// `A Bᵀ` of the warpgroup's 64 rows of panels, `a_panel` bytes from one panel to the next, and `8 n_tiles` rows of panels.
#[cube]
pub(crate) fn start_panels<E: Float, D: Size>(
    a: u64,
    b: u64,
    #[comptime] n_tiles: usize,
    #[comptime] steps: usize,
    #[comptime] a_panel: usize,
    #[comptime] element: &'static str,
) -> Vector<f32, D> {
    let text = comptime!(panels_text(n_tiles, steps, a_panel, element));
    let sums: Vector<f32, D>;
    gpu_asm!("{text} // {sums} {a} {b}", a = in(_) a, b = in(_) b, sums = out(_) sums);
    sums
}

/// `sums + W B` of the plane's 16 rows of weights, in fragments, and the `16 steps` rows of panels, `8 n_tiles` numbers wide.
#[cube]
pub(crate) fn start_sums<E: Float, A: Size, D: Size>(
    fragments: Vector<u32, A>,
    panels: u64,
    before: Vector<f32, D>,
    #[comptime] n_tiles: usize,
    #[comptime] steps: usize,
    #[comptime] element: &'static str,
) -> Vector<f32, D> {
    let text = comptime!(sums_text(n_tiles, steps, element));
    let sums: Vector<f32, D>;
    gpu_asm!(
        "{text} // {sums} {before} {fragments} {panels}",
        before = in(_) Vector::<f32, D>::cast_from(before), fragments = in(_) Vector::<u32, A>::cast_from(fragments),
        panels = in(_) panels, sums = out(_) sums,
    );
    sums
}

/// Waits for all products but the `pending` that were started last.
#[cube]
pub(crate) fn finish(#[comptime] pending: usize) {
    gpu_asm!("wgmma.wait_group.sync.aligned {pending};", pending = const pending);
}

/// A plane's sums rounded to 16 bits, as fragments for the next product.
#[cube]
pub(crate) fn round_sums<E: Float, P: Size>(sums: &Array<f32>, #[comptime] n_tiles: usize) -> Vector<u32, P> {
    let mut rounded = Vector::<u32, P>::empty();
    #[unroll]
    for i in 0..comptime!(2 * n_tiles) {
        let mut two = Vector::<E, Const<2>>::empty();
        two.insert(0usize, E::cast_from(sums[comptime!(2 * i)]));
        two.insert(1usize, E::cast_from(sums[comptime!(2 * i + 1)]));
        rounded.insert(i, u32::reinterpret(two));
    }
    rounded
}

/// The numbers of a vector one by one.
#[cube]
pub(crate) fn spread<D: Size>(sums: Vector<f32, D>) -> Array<f32> {
    let count = D::value().comptime();
    let mut all = Array::<f32>::new(count);
    #[unroll]
    for i in 0..count {
        all[i] = sums.extract(i);
    }
    all
}

/// The reverse of [`spread`].
#[cube]
pub(crate) fn gather<D: Size>(sums: &Array<f32>) -> Vector<f32, D> {
    let mut all = Vector::<f32, D>::empty();
    #[unroll]
    for i in 0..D::value().comptime() {
        all.insert(i, sums[i]);
    }
    all
}

fn registers(first: usize, count: usize) -> String {
    let names: Vec<String> = (first..first + count).map(|i| format!("%{i}")).collect();
    format!("{{{}}}", names.join(", "))
}

/// Registers: sums, fragments, panels. A step is 16 columns, 32 bytes of a panel.
fn rows_text(n_tiles: usize, steps: usize, element: &str) -> String {
    let sums = 4 * n_tiles;
    let mut text = format!(
        "{{ .reg .pred first, more; .reg .b64 d;\nsetp.ne.b32 first, 0, 0;\nsetp.eq.b32 more, 0, 0;\nmov.b64 d, %{};\n\
         wgmma.fence.sync.aligned;\n",
        sums + 4 * steps
    );
    for step in 0..steps {
        let _ = writeln!(
            text,
            "wgmma.mma_async.sync.aligned.m64n{}k16.f32.{element}.{element} {}, {}, d, {}, 1, 1, 0;",
            8 * n_tiles,
            registers(0, sums),
            registers(sums + 4 * step, 4),
            if step == 0 { "first" } else { "more" },
        );
        // Behind the last step of a panel: the next panel.
        let ahead = if step % 4 == 3 { n_tiles * 8 * 128 - 96 } else { 32 };
        let _ = writeln!(text, "add.s64 d, d, {};", ahead / 16);
    }
    text.push_str("wgmma.commit_group.sync.aligned; }");
    text
}

/// Registers: sums, panels of A, panels of B.
fn panels_text(n_tiles: usize, steps: usize, a_panel: usize, element: &str) -> String {
    let sums = 4 * n_tiles;
    let mut text = format!(
        "{{ .reg .pred first, more; .reg .b64 a, b;\nsetp.ne.b32 first, 0, 0;\nsetp.eq.b32 more, 0, 0;\nmov.b64 a, %{};\n\
         mov.b64 b, %{};\nwgmma.fence.sync.aligned;\n",
        sums,
        sums + 1
    );
    for step in 0..steps {
        let more = if step == 0 { "first" } else { "more" };
        let (n, registers) = (8 * n_tiles, registers(0, sums));
        let _ = writeln!(text, "wgmma.mma_async.sync.aligned.m64n{n}k16.f32.{element}.{element} {registers}, a, b, {more}, 1, 1, 0, 0;");
        let ahead = |panel| if step % 4 == 3 { panel - 96 } else { 32 } / 16;
        let _ = writeln!(text, "add.s64 a, a, {};\nadd.s64 b, b, {};", ahead(a_panel), ahead(n_tiles * 8 * 128));
    }
    text.push_str("wgmma.commit_group.sync.aligned; }");
    text
}

/// Registers: sums, sums before, fragments, panels. A step is 16 rows of 128 bytes.
fn sums_text(n_tiles: usize, steps: usize, element: &str) -> String {
    let sums = 4 * n_tiles;
    let mut text = format!("{{ .reg .pred more; .reg .b64 d;\nsetp.eq.b32 more, 0, 0;\nmov.b64 d, %{};\n", 2 * sums + 4 * steps);
    for i in 0..sums {
        let _ = writeln!(text, "mov.f32 %{i}, %{};", sums + i);
    }
    text.push_str("wgmma.fence.sync.aligned;\n");
    for step in 0..steps {
        let _ = writeln!(
            text,
            "wgmma.mma_async.sync.aligned.m64n{}k16.f32.{element}.{element} {}, {}, d, more, 1, 1, 1;\nadd.s64 d, d, 128;",
            8 * n_tiles,
            registers(0, sums),
            registers(2 * sums + 4 * step, 4),
        );
    }
    text.push_str("wgmma.commit_group.sync.aligned; }");
    text
}
