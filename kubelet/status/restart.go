package status

import (
	"slices"

	v1 "k8s.io/api/core/v1"

	"github.com/skiff-k8s/skiff/kubelet/runtime"
)

// IsSidecar says that an init container runs beside the main containers (KEP-753).
func IsSidecar(c *v1.Container) bool {
	return c.RestartPolicy != nil && *c.RestartPolicy == v1.ContainerRestartPolicyAlways
}

// WillRestart says whether a container is to be started (again), latest being its newest run or nil.
func WillRestart(spec *v1.PodSpec, c *v1.Container, latest *runtime.Container) bool {
	switch {
	case latest == nil:
		return true
	case latest.State == runtime.Running:
		return false
	case latest.State == runtime.Exited:
		return Restartable(spec, c, latest.ExitCode)
	default:
		return true
	}
}

// Restartable says whether the policies start a container again that ended with the exit code. The
// container's own policy and rules go before the pod's (KEP-5307).
func Restartable(spec *v1.PodSpec, c *v1.Container, exitCode int32) bool {
	if ruleFor(c, exitCode) != "" {
		return true // the container alone or with all others
	}
	policy := string(spec.RestartPolicy)
	if c.RestartPolicy != nil {
		policy = string(*c.RestartPolicy)
	}
	switch policy {
	case string(v1.RestartPolicyNever):
		return false
	case string(v1.RestartPolicyOnFailure):
		return exitCode != 0
	default:
		return true
	}
}

// RestartsAll says whether an end with the exit code has all containers of the pod start again, the init
// containers first, in the same sandbox (KEP-5532).
func RestartsAll(c *v1.Container, exitCode int32) bool {
	return ruleFor(c, exitCode) == v1.ContainerRestartRuleActionRestartAllContainers
}

// ruleFor is the action of the first of the container's rules that is about the exit code, or "".
func ruleFor(c *v1.Container, exitCode int32) v1.ContainerRestartRuleAction {
	for _, rule := range c.RestartPolicyRules {
		if matches(rule.ExitCodes, exitCode) {
			return rule.Action
		}
	}
	return ""
}

func matches(rule *v1.ContainerRestartRuleOnExitCodes, exitCode int32) bool {
	if rule == nil {
		return false
	}
	listed := slices.Contains(rule.Values, exitCode)
	return listed == (rule.Operator == v1.ContainerRestartRuleOnExitCodesOpIn)
}
