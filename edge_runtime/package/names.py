"""Names shared by the graphs of a package, its state and the engines."""

# State tensors, by prefix
PARAM = "param."  # trained
EMA = "ema."  # the teacher's copy of the parameter of the same name
LATE = "late."  # the teacher's copy before the last step, see `TeacherFirst`
EXP_AVG = "exp_avg."  # AdamW's first moment
EXP_AVG_SQ = "exp_avg_sq."  # AdamW's second moment
UPDATES = "updates."  # updates so far of a parameter group that only some rungs train
BUFFER = "buffer."  # anything else that is kept between steps: a centre, a mask, a count

# Graph inputs and outputs
IMAGES_PREFIX = "images."  # of a view group
TARGET_PREFIX = "target."  # of a view group, by the frozen encoder
TEACHER_PREFIX = "teacher."  # of a view group, by the EMA teacher
NEXT = "next."  # a state tensor or a sum among the outputs
GRAD = "grad."  # gradients of a parameter, summed over micro-batches
MEAN = "mean."  # new value of a buffer, averaged over micro-batches
LOSS = "loss"  # the metric of every step
APPLIED = "applied"  # optional metric: 0 if a step's update was skipped
LOSS_SCALE = "loss_scale"  # a buffer, and a metric: its value in the step
GOOD_STEPS = "good_steps"  # a buffer: updates since the loss scale changed
FEATURES_OUTPUT = "features"

# Hyper-parameters that several parts use
LEARNING_RATE = "lr"
WEIGHT_DECAY = "weight_decay"
BETA1 = "beta1"  # decay of AdamW's first moment
STEP_COUNT = "step"  # from 1
EMA_MOMENTUM = "ema_momentum"  # of methods with a teacher

# Roles of graph inputs
STATE = "state"  # a state tensor, by its state name
IMAGES = "images"  # uint8 [views, batch, height, width, 3], RGB
# float32 [views, batch, width]: the images' features, see `FrozenEncoder` and `TeacherFirst`
TARGET = "target"
DRAW = "draw"  # random numbers drawn by the host, see `DrawSpec`
HYPER = "hyper"  # float32 scalar, see `edge_runtime.package.curves`
WEIGHT = "weight"  # a weight of a forward graph, by its name without `param.` or `ema.`
SUM = "sum"  # summed over micro-batches: `grad.<parameter>`, `mean.buffer.<name>`; both ways
# Roles of graph outputs
METRIC = "metric"  # float32 scalar
SELECTION = "selection"  # int32 token indices that a policy chose
FEATURES = "features"  # float32 [images, width]

# Precisions of a package: the dtype of the matrix products of its steps
FP32, FP16 = "fp32", "fp16"
PRECISIONS = (FP32, FP16)

# Kinds of a rung's graphs
STEP = "step"  # forward, backward, AdamW, EMA
ACCUMULATE = "accumulate"  # forward and backward of a micro-batch
APPLY = "apply"  # AdamW and EMA with the sums of `accumulate`
