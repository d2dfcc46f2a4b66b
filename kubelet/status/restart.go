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
	for _, rule := range c.RestartPolicyRules {
		if rule.Action == v1.ContainerRestartRuleActionRestart && matches(rule.ExitCodes, exitCode) {
			return true
		}
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

func matches(rule *v1.ContainerRestartRuleOnExitCodes, exitCode int32) bool {
	if rule == nil {
		return false
	}
	listed := slices.Contains(rule.Values, exitCode)
	return listed == (rule.Operator == v1.ContainerRestartRuleOnExitCodesOpIn)
}
