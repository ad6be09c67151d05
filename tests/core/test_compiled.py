"""What the compiler made of libadamas: exact arithmetic only, vectorised, and AVX2 only where it was asked for."""

from __future__ import annotations

import functools
import platform
from collections import Counter

import capstone
import pytest
from elftools.elf.elffile import ELFFile

from adamas.kernels import cpu

pytestmark = pytest.mark.skipif(
    platform.machine() != "x86_64" or platform.system() != "Linux", reason="reads x86-64 code in ELF files only"
)


@functools.cache
def code() -> tuple[tuple[capstone.CsInsn, ...], dict[str, tuple[int, int]]]:
    """Every instruction of libadamas, and where each function that other files can see begins and ends."""
    with open(cpu.library_path(), "rb") as file:
        elf = ELFFile(file)
        text = elf.get_section_by_name(".text")
        visible = {
            symbol.name: (symbol["st_value"], symbol["st_value"] + symbol["st_size"])
            for symbol in elf.get_section_by_name(".dynsym").iter_symbols()
            if symbol["st_info"]["type"] == "STT_FUNC" and symbol["st_value"]
        }
        disassembler = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
        disassembler.detail = True
        disassembler.skipdata = True
        return tuple(disassembler.disasm(text.data(), text["sh_addr"])), visible


def uses(instruction: capstone.CsInsn, *registers: str) -> bool:
    return any(register in instruction.op_str for register in registers)


def test_the_flags_that_exactness_needs() -> None:
    flags = cpu.build_info().split()
    for flag in ("-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"):
        assert flag in flags
    for flag in flags:
        assert flag not in {"-ffast-math", "-Ofast", "-funsafe-math-optimizations", "-mfma", "-march=native"}


def test_no_instruction_that_rounds_otherwise() -> None:
    """Fused multiply-add rounds once for twice, rcp and rsqrt are approximate, x87 has 64 bits."""
    instructions, _ = code()
    assert len(instructions) > 2000
    names = Counter(instruction.mnemonic for instruction in instructions)
    wrong = [
        n for n in names if n.startswith(("vfmadd", "vfmsub", "vfnmadd", "vfnmsub", "vrcp", "rcp", "rsqrt", "vrsqrt"))
    ]
    x87 = [i.mnemonic for i in instructions if i.id and i.group(capstone.x86.X86_GRP_FPU)]
    assert wrong == []
    assert [n for n in x87 if n not in {"fnstcw", "fldcw", "stmxcsr", "ldmxcsr", "fwait", "wait"}] == []
    assert not any(uses(i, "zmm") for i in instructions)


@pytest.mark.parametrize("operation", ["sqrt", "div", "mul", "add", "sub"])
@pytest.mark.parametrize("kind", ["ps", "pd"])
def test_the_loops_are_vectorised(operation: str, kind: str) -> None:
    """8 float32 or 4 float64 at once with AVX2, half as many with SSE, and one in the scalar build."""
    instructions, _ = code()
    assert any(i.mnemonic == f"v{operation}{kind}" and uses(i, "ymm") for i in instructions)
    assert any(i.mnemonic == f"{operation}{kind}" and uses(i, "xmm") for i in instructions)
    assert any(i.mnemonic == f"{operation}{kind.replace('p', 's')}" for i in instructions)


def test_no_shared_function_was_compiled_for_avx2() -> None:
    """A template compiled with -mavx2 that the linker keeps for everybody would stop older processors."""
    instructions, visible = code()
    assert any(name.startswith("adamas_run") for name in visible)
    inside = [
        (name, i.mnemonic)
        for name, (begin, end) in visible.items()
        for i in instructions
        if begin <= i.address < end and i.id and (uses(i, "ymm") or i.mnemonic.startswith("v"))
    ]
    assert inside == []
