"""Start ``dff_node``, and on demand a recording to play into it and rviz2.

    ros2 launch dff_ros dff.launch.py image:=/camera/image_raw
    ros2 launch dff_ros dff.launch.py video:=drive.mp4 use_rviz:=true

An argument left empty leaves the node's own default, or what ``params_file`` says. Fast DDS gets the profile for large images,
unless the environment names one already.
"""

import os

from ament_index_python.packages import get_package_share_directory
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable, Shutdown
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

PACKAGE = "dff_ros"
PROFILE_VARIABLES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")

ARGUMENTS = {
    "image": ("image", "the camera's topic; with image_transport:=compressed the base name, as image_transport has it"),
    "image_transport": ("", "raw or compressed"),
    "name": ("dff", "name of the node"),
    "namespace": ("", "namespace of the node"),
    "params_file": ("", "YAML file with parameters"),
    "model": ("", "bundle: a name under models/ or the path of a folder"),
    "device": ("", "auto, cpu or cuda"),
    "use_sim_time": ("", "true to take the time from /clock"),
    "autostart": ("", "false to leave configure and activate to a lifecycle manager"),
    "use_rviz": ("false", "true to start rviz2"),
    "rviz_config": ("", "configuration of rviz2; empty takes the package's"),
    "log_level": ("info", "debug, info, warn, error or fatal"),
    "bag": ("", "bag to play onto the camera's topic"),
    "video": ("", "video file to play onto the camera's topic"),
}


def share(*parts):
    return os.path.join(get_package_share_directory(PACKAGE), *parts)


def is_true(text):
    if text.lower() not in ("true", "false", ""):
        raise RuntimeError(f"expected true or false, got {text!r}")
    return text.lower() == "true"


def profile_actions():
    if any(os.environ.get(name) for name in (*PROFILE_VARIABLES, "FASTDDS_BUILTIN_TRANSPORTS")):
        return []
    return [SetEnvironmentVariable(name, share("config", "fastdds_large_images.xml")) for name in PROFILE_VARIABLES]


def node_actions(value):
    # What the user names on the command line wins over the file.
    given = {name: value[name] for name in ("image_transport", "model", "device") if value[name]}
    given.update({name: is_true(value[name]) for name in ("use_sim_time", "autostart") if value[name]})
    node = Node(
        package=PACKAGE,
        executable="dff_node",
        name=value["name"],
        namespace=value["namespace"],
        parameters=[item for item in (value["params_file"], given) if item],
        remappings=[("image", value["image"])],
        ros_arguments=["--log-level", value["log_level"]],
        output="screen",
        emulate_tty=True,
        on_exit=Shutdown(reason="dff_node ended"),
    )
    return [node]


def source_actions(value):
    played = {name: value[name] for name in ("bag", "video") if value[name]}
    if not played:
        return []
    source = Node(
        package=PACKAGE,
        executable="dff_source",
        namespace=value["namespace"],
        parameters=[{**played, "compressed": value["image_transport"] == "compressed", "wait": 120.0}],
        remappings=[("image", value["image"])],
        output="screen",
        emulate_tty=True,
    )
    return [source]


def rviz_actions(value):
    if not is_true(value["use_rviz"]):
        return []
    full_name = "/" + "/".join(part.strip("/") for part in (value["namespace"], value["name"]) if part.strip("/"))
    # The configuration shows a node called /dff.
    topics = ("overlay", "segmentation_color")
    rviz = Node(
        package="rviz2",
        executable="rviz2",
        arguments=["-d", value["rviz_config"] or share("config", "dff.rviz")],
        remappings=[(f"/dff/{topic}", f"{full_name}/{topic}") for topic in topics],
        parameters=[{"use_sim_time": is_true(value["use_sim_time"])}],
        output="log",
    )
    return [rviz]


def start(context):
    value = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    return [*profile_actions(), *node_actions(value), *source_actions(value), *rviz_actions(value)]


def generate_launch_description():
    declared = [DeclareLaunchArgument(name, default_value=default, description=text) for name, (default, text) in ARGUMENTS.items()]
    return LaunchDescription([*declared, OpaqueFunction(function=start)])
