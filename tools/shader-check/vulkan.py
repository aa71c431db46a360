"""Pipelines of Vulkan without wgpu: what a driver says of the code that it makes from SPIR-V. Nothing runs, so that a driver
without a card, which has neither memory nor fences and is no device for wgpu, will do.

    VK_DRIVER_FILES=… python3 vulkan.py OUT.json FILE.spv…
"""

import ctypes
import json
import pathlib
import struct
import sys

U32, U64, POINTER, TEXT = ctypes.c_uint32, ctypes.c_uint64, ctypes.c_void_p, ctypes.c_char_p

# Numbers of vulkan_core.h.
APPLICATION_INFO, INSTANCE, QUEUE, DEVICE, MODULE, STAGE, PIPELINE, LAYOUT, SET_LAYOUT = 0, 1, 2, 3, 16, 18, 29, 30, 32
FEATURES = 1000059000
# VkPhysicalDeviceVulkan11Features and so on to 13, PipelineExecutableProperties, CooperativeMatrix, each with the number of
# its flags. What the device supports of them is switched on.
CHAIN = [(49, 12), (51, 47), (53, 15), (1000269000, 1), (1000506000, 2)]
EXTENSIONS = [b"VK_KHR_pipeline_executable_properties", b"VK_KHR_cooperative_matrix"]
EXECUTABLE, EXECUTABLE_INFO, STATISTIC, CODE = 1000269002, 1000269003, 1000269004, 1000269005
EXECUTABLES_OF = 1000269001
API_1_3 = 1 << 22 | 3 << 12
UNIFORM_BUFFER, STORAGE_BUFFER, COMPUTE = 6, 7, 0x20
CAPTURE = 0x40 | 0x80  # statistics and code
ANY_WIDTH = 1  # of subgroups, as wgpu asks for
IMMEDIATE_BYTES = 128

# Numbers of SPIR-V: instructions, a decoration, storage classes.
ENTRY_POINT, VARIABLE, DECORATE, BINDING = 15, 59, 71, 33
UNIFORM, WORKGROUP, STORAGE = 2, 4, 12


def structure(*fields):
    """A type with these fields, (name, type) each; the first two of every structure of Vulkan are `kind` and `next`."""
    return type("Structure", (ctypes.Structure,), {"_fields_": [("kind", U32), ("next", POINTER), *fields]})


def flags(number):
    return structure(("flags", U32 * number))


def address(of):
    return ctypes.cast(ctypes.pointer(of), POINTER)


Application = structure(("name", TEXT), ("version", U32), ("engine", TEXT), ("engine_version", U32), ("api", U32))
Instance = structure(("flags", U32), ("application", POINTER), ("layers", U32), ("_", POINTER), ("extensions", U32), ("names", POINTER))
Queue = structure(("flags", U32), ("family", U32), ("count", U32), ("priorities", POINTER))
Device = structure(
    ("flags", U32), ("queues", U32), ("queue", POINTER), ("layers", U32), ("_", POINTER), ("extensions", U32), ("names", POINTER), ("features", POINTER)
)
Module = structure(("flags", U32), ("bytes", ctypes.c_size_t), ("words", POINTER))
SetLayout = structure(("flags", U32), ("bindings", U32), ("binding", POINTER))
PipelineLayout = structure(("flags", U32), ("sets", U32), ("set", POINTER), ("ranges", U32), ("range", POINTER))
Stage = structure(("flags", U32), ("stage", U32), ("module", U64), ("entry", TEXT), ("constants", POINTER))
Pipeline = structure(("flags", U32), ("stage", Stage), ("layout", U64), ("base", U64), ("base_index", ctypes.c_int32))
Executables = structure(("pipeline", U64))
ExecutableInfo = structure(("pipeline", U64), ("index", U32))
Statistic = structure(("name", ctypes.c_char * 256), ("description", ctypes.c_char * 256), ("format", U32), ("value", U64))
Code = structure(("name", ctypes.c_char * 256), ("description", ctypes.c_char * 256), ("is_text", U32), ("bytes", ctypes.c_size_t), ("data", POINTER))


class Binding(ctypes.Structure):
    _fields_ = [("binding", U32), ("type", U32), ("count", U32), ("stages", U32), ("samplers", POINTER)]


class Driver:
    """The first device of the first driver."""

    def __init__(self):
        self.library = ctypes.CDLL("libvulkan.so.1")
        application = Application(APPLICATION_INFO, None, b"shader-check", 0, b"", 0, API_1_3)
        self.instance, self.device = POINTER(), POINTER()
        self.call("vkCreateInstance", ctypes.byref(Instance(INSTANCE, None, 0, address(application))), None, ctypes.byref(self.instance))
        count, physical = U32(1), POINTER()
        self.library.vkEnumeratePhysicalDevices(self.instance, ctypes.byref(count), ctypes.byref(physical))
        if not physical:
            raise SystemExit("no Vulkan device answers")
        chain = [flags(55)(FEATURES), *(flags(number)(kind) for kind, number in CHAIN)]
        for one, following in zip(chain, chain[1:]):
            one.next = address(following)
        self.library.vkGetPhysicalDeviceFeatures2(physical, ctypes.byref(chain[0]))
        priority = ctypes.c_float(1)
        queue = Queue(QUEUE, None, 0, 0, 1, address(priority))
        names = (TEXT * len(EXTENSIONS))(*EXTENSIONS)
        device = Device(DEVICE, address(chain[0]), 0, 1, address(queue), 0, None, len(EXTENSIONS), ctypes.cast(names, POINTER), None)
        self.call("vkCreateDevice", physical, ctypes.byref(device), None, ctypes.byref(self.device))

    def call(self, name, *arguments):
        result = getattr(self.library, name)(*arguments)
        if result != 0:
            raise SystemExit(f"{name} returned {result}")

    def make(self, name, info):
        made = U64()
        self.call(name, self.device, ctypes.byref(info), None, ctypes.byref(made))
        return made.value

    def all(self, name, of, blank):
        """Every structure that a call lists, in Vulkan's two steps."""
        function = ctypes.CFUNCTYPE(ctypes.c_int, POINTER, POINTER, POINTER, POINTER)(self.address(name))
        count = U32()
        function(self.device, address(of), address(count), None)
        found = (type(blank) * count.value)(*(type(blank)(blank.kind) for _ in range(count.value)))
        function(self.device, address(of), address(count), ctypes.cast(found, POINTER))
        return function, found, count

    def address(self, name):
        self.library.vkGetDeviceProcAddr.restype = POINTER
        return self.library.vkGetDeviceProcAddr(self.device, name.encode())

    def compiled(self, words):
        """What the driver makes of SPIR-V: its statistics by name, and its code."""
        entry, uniforms, storages = reflect(words)
        bindings = [(b, UNIFORM_BUFFER) for b in uniforms] + [(b, STORAGE_BUFFER) for b in storages]
        bindings = (Binding * len(bindings))(*(Binding(b, kind, 1, COMPUTE) for b, kind in bindings))
        layout = U64(self.make("vkCreateDescriptorSetLayout", SetLayout(SET_LAYOUT, None, 0, len(bindings), ctypes.cast(bindings, POINTER))))
        immediates = (U32 * 3)(COMPUTE, 0, IMMEDIATE_BYTES)
        layout = self.make("vkCreatePipelineLayout", PipelineLayout(LAYOUT, None, 0, 1, address(layout), 1, address(immediates)))
        code = ctypes.create_string_buffer(words, len(words))
        module = self.make("vkCreateShaderModule", Module(MODULE, None, 0, len(words), address(code)))
        stage = Stage(STAGE, None, ANY_WIDTH, COMPUTE, module, entry, None)
        info, pipeline = Pipeline(PIPELINE, None, CAPTURE, stage, layout, 0, -1), U64()
        self.library.vkCreateComputePipelines.argtypes = [POINTER, U64, U32, POINTER, POINTER, POINTER]
        self.call("vkCreateComputePipelines", self.device, 0, 1, address(info), None, address(pipeline))
        executable = ExecutableInfo(EXECUTABLE_INFO, None, pipeline.value, 0)
        _, statistics, _ = self.all("vkGetPipelineExecutableStatisticsKHR", executable, Statistic(STATISTIC))
        # Twice: how long each text is, then the texts.
        again, texts, count = self.all("vkGetPipelineExecutableInternalRepresentationsKHR", executable, Code(CODE))
        kept = [ctypes.create_string_buffer(text.bytes) for text in texts]
        for text, room in zip(texts, kept):
            text.data = address(room)
        again(self.device, address(executable), address(count), ctypes.cast(texts, POINTER))
        texts = {text.name.decode(): room.value.decode() for text, room in zip(texts, kept)}
        return {"statistics": {s.name.decode(): s.value for s in statistics}, "code": texts}


def reflect(words):
    """The entry point of SPIR-V, and the bindings of its uniform and of its storage buffers."""
    entry, bindings, storage = b"", {}, {}
    for op, one in instructions(words):
        if op == ENTRY_POINT:
            entry = struct.pack(f"<{len(one) - 3}I", *one[3:]).split(b"\0")[0]
        elif op == DECORATE and one[2] == BINDING:
            bindings[one[1]] = one[3]
        elif op == VARIABLE:
            storage[one[2]] = one[3]
    of = lambda wanted: sorted(binding for variable, binding in bindings.items() if storage[variable] == wanted)
    return entry, of(UNIFORM), of(STORAGE)


def instructions(words):
    """The instructions of SPIR-V, each with its number and all its words."""
    words, at = struct.unpack(f"<{len(words) // 4}I", words), 5
    while at < len(words):
        length = words[at] >> 16
        yield words[at] & 0xFFFF, words[at : at + length]
        at += length


def shares(words):
    """Whether invocations share memory of their workgroup."""
    return any(op == VARIABLE and one[3] == WORKGROUP for op, one in instructions(words))


def main():
    out, *files = map(pathlib.Path, sys.argv[1:])
    driver = Driver()
    out.write_text(json.dumps({file.stem: driver.compiled(file.read_bytes()) for file in files}))


if __name__ == "__main__":
    main()
