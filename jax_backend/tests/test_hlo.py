"""Forms of XLA's text that this machine's compiler does not write, as a TPU's and others do."""

import pytest

from crosstrain_jax.hlo import exchanges

MESH = {"data": 2, "tensor": 4}

CHAIN = """HloModule step, is_scheduled=true

%first (p: bf16[8,16]) -> bf16[8,64] {
  %p = bf16[8,16]{1,0:T(8,128)(2,1)} parameter(0)
  ROOT %all-gather.1 = bf16[8,64]{1,0:T(8,128)(2,1)S(1)} all-gather(%p), channel_id=7, replica_groups=[2,4]<=[8], \
dimensions={1}, frontend_attributes={chain_id="0"}
}

%second (p: bf16[8,16]) -> bf16[8,64] {
  %p = bf16[8,16]{1,0:T(8,128)(2,1)} parameter(0)
  ROOT %all-gather.2 = bf16[8,64]{1,0:T(8,128)(2,1)S(1)} all-gather(%p), channel_id=7, replica_groups=[2,4]<=[8], \
dimensions={1}, frontend_attributes={chain_id="0"}
}

%all-reduce-scatter.3 (p: f32[8,16]) -> f32[2,16] {
  %p = f32[8,16]{1,0} parameter(0)
  %all-reduce.1 = f32[8,16]{1,0} all-reduce(%p), channel_id=9, replica_groups=GROUPS, to_apply=%add
  ROOT %slice = f32[2,16]{1,0} dynamic-slice(%all-reduce.1, %i), dynamic_slice_sizes={2,16}
}

ENTRY %main (x: bf16[8,16], y: f32[8,16]) -> f32[2,16] {
  %x = bf16[8,16]{1,0:T(8,128)(2,1)} parameter(0)
  %y = f32[8,16]{1,0} parameter(1)
  %fusion.1 = bf16[8,64]{1,0} fusion(%x), kind=kOutput, calls=%first
  %fusion.2 = bf16[8,64]{1,0} fusion(%x), kind=kOutput, calls=%second
  ROOT %fusion.3 = f32[2,16]{1,0} fusion(%y), kind=kCustom, calls=%all-reduce-scatter.3
}
"""

START = """HloModule step

%body (t: (s32[], f32[4])) -> (s32[], f32[4]) {
  %t = (s32[], f32[4]{0}) parameter(0)
  %v = f32[4]{0} get-tuple-element(%t), index=1
  %collective-permute-start.1 = (f32[4]{0}, f32[4]{0}, u32[], u32[]) collective-permute-start(%v), channel_id=1, \
source_target_pairs={{0,1},{1,2},{2,3},{3,0},{4,5},{5,6},{6,7},{7,4}}
  %collective-permute-done.1 = f32[4]{0} collective-permute-done(%collective-permute-start.1)
  ROOT %r = (s32[], f32[4]{0}) tuple(%i, %collective-permute-done.1)
}

ENTRY %main (x: f32[4]) -> f32[4] {
  %x = f32[4]{0} parameter(0)
  ROOT %while.1 = (s32[], f32[4]{0}) while(%x), condition=%condition, body=%body
}
"""


@pytest.mark.parametrize(
    "groups",
    ["{{0,4},{1,5},{2,6},{3,7}}", "[4,2]<=[2,4]T(1,0)", "mesh['a'=2,'b'=4] {'a'}", "mesh['a'=8] {'a':(1)2}"],
)
def test_one_collective_behind_several_products_counts_once(groups: str) -> None:
    gather, scatter = exchanges(CHAIN.replace("GROUPS", groups), MESH).collectives[::-1]
    if gather.kind != "all-gather":
        gather, scatter = scatter, gather
    assert (gather.kind, gather.axes, gather.count, gather.operand_bytes) == ("all-gather", ("tensor",), 1, 256)
    assert (scatter.kind, scatter.axes, scatter.count) == ("reduce-scatter", ("data",), 1)
    assert scatter.sent_bytes == 512 / 2


def test_a_loop_of_unknown_length_counts_once_and_is_said() -> None:
    read = exchanges(START, MESH)
    assert not read.complete
    (ring,) = read.collectives
    assert (ring.kind, ring.axes, ring.group_size) == ("collective-permute", ("tensor",), 4)
    assert ring.sent_bytes == 16
