"""The ROS 2 node: a thin adapter between topics and the engine, with the life cycle of a managed node.

It converts, steps and publishes; everything else lives elsewhere. ``configure`` loads the bundle and creates the publishers,
``activate`` subscribes to the camera and starts the worker.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.qos import QoSProfile
from std_msgs.msg import Header
from std_srvs.srv import SetBool, Trigger

from dff_ros.engine.cost import PAYS_BELOW, measure_cost
from dff_ros.engine.loading import LoadedModel, load_model
from dff_ros.engine.schedule import parse_schedule
from dff_ros.engine.settings import EngineSettings
from dff_ros.engine.stream import FeatureFlowStream
from dff_ros.node.camera import Camera
from dff_ros.node.counters import Counters
from dff_ros.node.diagnostics import OK, Verdict, engine_values, input_values, judge_engine, judge_input, status
from dff_ros.node.outputs import Outputs
from dff_ros.node.parameters import NodeSettings, chosen, declare
from dff_ros.node.process import one_line

SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE

NOMINAL_SIZE = (480, 640)
"""Rows and columns of the noise on which the cost is measured; the networks see every source at about the same size."""


class DeepFeatureFlowNode(LifecycleNode):
    """``dff``: images in, detections and segmentation out."""

    def __init__(self, **arguments: Any) -> None:
        """Declare the parameters; raises ParameterException or ValueError for values that cannot be."""
        super().__init__("dff", **arguments)
        self._settings = declare(self, NodeSettings)
        self._engine_settings = declare(self, EngineSettings)
        parse_schedule(self._engine_settings.schedule, self._engine_settings)
        self.add_on_set_parameters_callback(self._on_parameters)
        self._model: LoadedModel | None = None
        self._outputs: Outputs | None = None
        self._camera: Camera | None = None
        self._counted = Counters()
        self._input_level = OK
        self._entities: list[tuple[Any, Any]] = []

    def start(self) -> bool:
        """With ``autostart``: configure and activate; False when that failed, the reason logged."""
        if not self._settings.autostart:
            return True
        transitions = (self.trigger_configure, self.trigger_activate)
        return all(transition() == SUCCESS for transition in transitions)

    @property
    def finished(self) -> bool:
        """Never: a node runs until it is told to stop."""
        return False

    @property
    def exit_code(self) -> int:
        """0: what fails while the node runs is reported, not fatal."""
        return 0

    def stop(self, timeout: float | None = None) -> bool:
        """End the camera's threads; False where one is still busy after ``timeout`` seconds."""
        camera, self._camera = self._camera, None
        return camera is None or camera.stop(timeout)

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the bundle, say what it costs to run, create publishers and services."""
        try:
            self._model = load_model(self._engine_settings)
            self._report_model(self._model)
        except Exception as error:  # noqa: BLE001 - rclpy drops without a word whatever a transition raises
            self.get_logger().error(f"cannot configure: {one_line(error)}")
            self._model = None
            return FAILURE
        self._outputs = Outputs(self, self._model.card)
        self._outputs.publish_label_info(self._engine_settings.score_threshold)
        self._create_services()
        return SUCCESS

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe to the camera and start the worker."""
        assert self._model is not None, "activated before configured"
        assert self._outputs is not None, "activated before configured"
        stream = FeatureFlowStream(self._model, self._engine_settings)
        self._counted = Counters()
        try:
            self._camera = Camera(self, stream, self._outputs, self._settings)
        except Exception as error:  # noqa: BLE001 - a qos_overrides that is none, for one; rclpy would drop it without a word
            self.get_logger().error(f"cannot activate: {one_line(error)}")
            return FAILURE
        self.get_logger().info(f"waiting for images on {self._camera.input.topic}")
        return SUCCESS

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribe and let the worker finish its frame."""
        self.stop()
        return SUCCESS

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Forget the bundle and destroy publishers and services."""
        self.stop()
        if self._outputs is not None:
            self._outputs.destroy()
        for destroy, entity in self._entities:
            destroy(entity)
        self._entities.clear()
        self._outputs = self._model = None
        return SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """As cleanup."""
        return self.on_cleanup(state)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Back to unconfigured."""
        return self.on_cleanup(state)

    def _report_model(self, model: LoadedModel) -> None:
        log = self.get_logger()
        for note in model.notes:
            log.warning(note)
        branch = ", with its branch on the current frame" if model.refines(self._engine_settings) else ""
        log.info(f"bundle {model.card.name} on {model.device} ({str(model.precision).replace('torch.', '')}){branch}")
        if self._settings.report_cost:
            cost = measure_cost(model, self._engine_settings, *NOMINAL_SIZE)
            # Not on one line: rclpy raises where a line that has logged a warning logs an information later.
            if cost.cost_ratio > PAYS_BELOW:
                log.warning(cost.advice)
            else:
                log.info(cost.advice)

    def _create_services(self) -> None:
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", QoSProfile(depth=5))
        # Steady: with use_sim_time and no /clock the diagnostics are what tells.
        timer = self.create_timer(1.0, self._publish_diagnostics, clock=Clock(clock_type=ClockType.STEADY_TIME))
        self._entities = [
            (self.destroy_publisher, self._diagnostics),
            (self.destroy_timer, timer),
            (self.destroy_service, self.create_service(Trigger, "~/reset", self._on_reset)),
            (self.destroy_service, self.create_service(SetBool, "~/enable", self._on_enable)),
        ]

    def _on_reset(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        response.success = self._camera is not None
        response.message = "the next frame is a key frame" if self._camera else "not active"
        if self._camera is not None:
            self._camera.reset()
        return response

    def _on_enable(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        response.success = self._camera is not None
        response.message = ("enabled" if request.data else "disabled") if self._camera else "not active"
        if self._camera is not None:
            self._camera.enable(request.data)
        return response

    def _on_parameters(self, parameters: list[Any]) -> SetParametersResult:
        try:
            settings = replace(self._settings, **chosen(NodeSettings, parameters))
            engine_settings = self._engine_settings.with_values(chosen(EngineSettings, parameters))
            parse_schedule(engine_settings.schedule, engine_settings)
        except ValueError as error:
            return SetParametersResult(successful=False, reason=one_line(error))
        threshold_changed = engine_settings.score_threshold != self._engine_settings.score_threshold
        self._settings, self._engine_settings = settings, engine_settings
        if self._camera is not None:
            self._camera.apply(settings, engine_settings)
        if threshold_changed and self._outputs is not None:
            self._outputs.publish_label_info(engine_settings.score_threshold)
        return SetParametersResult(successful=True)

    def _publish_diagnostics(self) -> None:
        name = self.get_fully_qualified_name().lstrip("/")
        message = DiagnosticArray(header=Header(stamp=self.get_clock().now().to_msg()))
        if self._camera is None:
            message.status = [status(f"{name}: input", Verdict(OK, "inactive"), {})]
        else:
            message.status = self._active_statuses(self._camera, name)
        self._diagnostics.publish(message)

    def _active_statuses(self, camera: Camera, name: str) -> list[Any]:
        statistics = camera.statistics
        now = replace(statistics.counters)
        since, self._counted = now.since(self._counted), now
        source = camera.input
        heard = judge_input(statistics, since, why_silent=source.why_silent, mismatch=source.mismatch, enabled=camera.enabled)
        if heard.level not in (OK, self._input_level):  # not everybody watches the diagnostics
            self.get_logger().warning(heard.message)
        self._input_level = heard.level
        facts = {"schedule": self._engine_settings.schedule, "key_frames": self._engine_settings.key_frames}
        if self._model is not None:
            refine = "on" if self._model.refines(self._engine_settings) else "off"
            facts.update(model=self._model.card.name, device=str(self._model.device), refine=refine)
        return [
            status(f"{name}: input", heard, input_values(statistics, source.topic)),
            status(f"{name}: engine", judge_engine(since), engine_values(statistics, facts)),
        ]
