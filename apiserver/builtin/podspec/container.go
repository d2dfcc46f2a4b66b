package podspec

import (
	"fmt"
	"reflect"
	"strings"
	"unicode"
	"unicode/utf8"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func (v *validator) checkContainers(path *field.Path) {
	if len(v.spec.Containers) == 0 {
		v.required(path, "")
		return
	}
	names := make(map[string]bool)
	for i := range v.spec.Containers {
		c, at := &v.spec.Containers[i], path.Index(i)
		v.checkContainer(c, at)
		v.unique(names, c.Name, at.Child("name"))
		v.checkLifecycle(c.Lifecycle, at.Child("lifecycle"))
		v.checkProbes(c, at)
		v.checkRestartRules(c.RestartPolicy, c.RestartPolicyRules, at)
	}
	v.checkHostPorts(path, v.spec.Containers...)
}

func (v *validator) unique(names map[string]bool, name string, path *field.Path) {
	if names[name] {
		v.add(field.Duplicate(path, name))
	}
	names[name] = true
}

func (v *validator) checkInitContainers(path *field.Path) {
	names := make(map[string]bool)
	for i := range v.spec.Containers {
		names[v.spec.Containers[i].Name] = true
	}
	for i := range v.spec.InitContainers {
		c, at := &v.spec.InitContainers[i], path.Index(i)
		v.checkContainer(c, at)
		v.checkRestartRules(c.RestartPolicy, c.RestartPolicyRules, at)
		if names[c.Name] {
			v.add(field.Duplicate(at.Child("name"), c.Name))
		} else if c.Name != "" {
			names[c.Name] = true
		}
		v.checkHostPorts(path, *c)
		if IsSidecar(c) {
			v.checkLifecycle(c.Lifecycle, at.Child("lifecycle"))
			v.checkProbes(c, at)
			continue
		}
		v.checkOneShot(c, at)
	}
}

// IsSidecar reports whether an init container runs as long as the pod.
func IsSidecar(c *v1.Container) bool {
	return c.RestartPolicy != nil && *c.RestartPolicy == v1.ContainerRestartPolicyAlways
}

// checkOneShot forbids what only containers that keep running have.
func (v *validator) checkOneShot(c *v1.Container, path *field.Path) {
	const detail = "may not be set for init containers without restartPolicy=Always"
	for _, f := range []struct {
		name string
		set  bool
	}{
		{"lifecycle", c.Lifecycle != nil},
		{"livenessProbe", c.LivenessProbe != nil},
		{"readinessProbe", c.ReadinessProbe != nil},
		{"startupProbe", c.StartupProbe != nil},
	} {
		if f.set {
			v.forbidden(path.Child(f.name), detail)
		}
	}
	if v.opts.InitRestartContainer {
		return
	}
	for i, p := range c.ResizePolicy {
		if p.RestartPolicy == v1.RestartContainer {
			v.invalid(path.Child("resizePolicy").Index(i).Child("restartPolicy"), p.RestartPolicy, "must not be set to 'RestartContainer' for non-sidecar initContainers")
		}
	}
}

// ephemeralFields are the fields an ephemeral container may have.
var ephemeralFields = map[string]bool{
	"Name": true, "Image": true, "Command": true, "Args": true, "WorkingDir": true,
	"EnvFrom": true, "Env": true, "VolumeMounts": true, "VolumeDevices": true,
	"TerminationMessagePath": true, "TerminationMessagePolicy": true,
	"ImagePullPolicy": true, "SecurityContext": true,
	"Stdin": true, "StdinOnce": true, "TTY": true,
}

func (v *validator) checkEphemeralContainers(path *field.Path) {
	const detail = "cannot be set for an Ephemeral Container"
	names, targets := make(map[string]bool), make(map[string]bool)
	for _, list := range [][]v1.Container{v.spec.Containers, v.spec.InitContainers} {
		for i := range list {
			names[list[i].Name], targets[list[i].Name] = true, true
		}
	}
	for i := range v.spec.EphemeralContainers {
		ec, at := &v.spec.EphemeralContainers[i], path.Index(i)
		c := (*v1.Container)(&ec.EphemeralContainerCommon)
		v.checkContainer(c, at)
		v.checkImageSpace(c.Image, at)
		v.unique(names, ec.Name, at.Child("name"))
		if ec.TargetContainerName != "" && !targets[ec.TargetContainerName] {
			v.add(field.NotFound(at.Child("targetContainerName"), ec.TargetContainerName))
		}
		v.onlyFields(ec.EphemeralContainerCommon, ephemeralFields, at, detail)
		for k, m := range ec.VolumeMounts {
			if m.SubPath != "" {
				v.forbidden(at.Child("volumeMounts").Index(k).Child("subPath"), detail)
			}
			if m.SubPathExpr != "" {
				v.forbidden(at.Child("volumeMounts").Index(k).Child("subPathExpr"), detail)
			}
		}
	}
}

// onlyFields forbids all fields of a struct that are set and not allowed.
func (v *validator) onlyFields(value any, allowed map[string]bool, path *field.Path, detail string) {
	s := reflect.ValueOf(value)
	for i := range s.NumField() {
		name := s.Type().Field(i).Name
		if allowed[name] || reflect.DeepEqual(s.Field(i).Interface(), reflect.Zero(s.Field(i).Type()).Interface()) {
			continue
		}
		first, n := utf8.DecodeRuneInString(name)
		v.forbidden(path.Child(string(unicode.ToLower(first))+name[n:]), detail)
	}
}

// checkContainer checks what all containers have in common.
func (v *validator) checkContainer(c *v1.Container, path *field.Path) {
	if v.need(path.Child("name"), c.Name) {
		v.label(path.Child("name"), c.Name)
	}
	v.need(path.Child("image"), c.Image)
	choose(v, path.Child("terminationMessagePolicy"), c.TerminationMessagePolicy, v1.TerminationMessageReadFile, v1.TerminationMessageFallbackToLogsOnError)
	v.checkPorts(c.Ports, path.Child("ports"))
	v.checkEnv(c.Env, path.Child("env"))
	v.checkEnvFrom(c.EnvFrom, path.Child("envFrom"))
	v.checkMounts(c, path.Child("volumeMounts"))
	v.checkDevices(c, path.Child("volumeDevices"))
	v.checkPullPolicy(c.ImagePullPolicy, path.Child("imagePullPolicy"))
	v.checkRequirements(&c.Resources, containerResource, path.Child("resources"))
	v.checkResizePolicy(c.ResizePolicy, path.Child("resizePolicy"))
	v.checkSecurity(c.SecurityContext, path.Child("securityContext"))
}

func (v *validator) checkPullPolicy(p v1.PullPolicy, path *field.Path) {
	choose(v, path, p, v1.PullAlways, v1.PullIfNotPresent, v1.PullNever)
}

// checkImageSpace rejects space around the image, which is allowed in templates.
func (v *validator) checkImageSpace(image string, path *field.Path) {
	if image != strings.TrimSpace(image) {
		v.invalid(path.Child("image"), image, "must not have leading or trailing whitespace")
	}
}

func (v *validator) checkPorts(ports []v1.ContainerPort, path *field.Path) {
	names := make(map[string]bool)
	for i := range ports {
		p, at := &ports[i], path.Index(i)
		if p.Name != "" {
			if msgs := validation.IsValidPortName(p.Name); len(msgs) > 0 {
				v.messages(at.Child("name"), p.Name, msgs)
			} else {
				v.unique(names, p.Name, at.Child("name"))
			}
		}
		if p.ContainerPort == 0 {
			v.required(at.Child("containerPort"), "")
		} else {
			v.messages(at.Child("containerPort"), p.ContainerPort, validation.IsValidPortNum(int(p.ContainerPort)))
		}
		if p.HostPort != 0 {
			v.messages(at.Child("hostPort"), p.HostPort, validation.IsValidPortNum(int(p.HostPort)))
		}
		choose(v, at.Child("protocol"), p.Protocol, v1.ProtocolSCTP, v1.ProtocolTCP, v1.ProtocolUDP)
	}
}

// checkHostPorts rejects a host port that two of the containers want.
func (v *validator) checkHostPorts(path *field.Path, containers ...v1.Container) {
	taken := make(map[string]bool)
	for i := range containers {
		for k, p := range containers[i].Ports {
			if p.HostPort == 0 {
				continue
			}
			v.unique(taken, fmt.Sprintf("%s/%s/%d", p.Protocol, p.HostIP, p.HostPort), path.Index(i).Child("ports").Index(k).Child("hostPort"))
		}
	}
}

func (v *validator) checkResizePolicy(policies []v1.ContainerResizePolicy, path *field.Path) {
	seen := make(map[v1.ResourceName]bool)
	for i, p := range policies {
		if seen[p.ResourceName] {
			v.add(field.Duplicate(path.Index(i), p.ResourceName))
		}
		seen[p.ResourceName] = true
		choose(v, path, p.ResourceName, v1.ResourceCPU, v1.ResourceMemory)
		choose(v, path, p.RestartPolicy, v1.NotRequired, v1.RestartContainer)
		if v.spec.RestartPolicy == v1.RestartPolicyNever && p.RestartPolicy != v1.NotRequired {
			v.invalid(path, p.RestartPolicy, "must be 'NotRequired' when pod `restartPolicy` is 'Never'")
		}
	}
}

// checkRestartRules checks the restart policy of one container (KEP 5307).
func (v *validator) checkRestartRules(policy *v1.ContainerRestartPolicy, rules []v1.ContainerRestartRule, path *field.Path) {
	const maxRules, maxExitCodes = 20, 255
	if policy != nil {
		oneOf(v, path.Child("restartPolicy"), *policy, v1.ContainerRestartPolicyAlways, v1.ContainerRestartPolicyNever, v1.ContainerRestartPolicyOnFailure)
	} else if len(rules) > 0 {
		v.required(path.Child("restartPolicy"), "must specify restartPolicy when restart rules are used")
	}
	at := path.Child("restartPolicyRules")
	if len(rules) > maxRules {
		v.add(field.TooMany(at, len(rules), maxRules))
	}
	for i, rule := range rules {
		oneOf(v, at.Index(i).Child("action"), rule.Action, v1.ContainerRestartRuleActionRestart, v1.ContainerRestartRuleActionRestartAllContainers)
		codes := at.Index(i).Child("exitCodes")
		if rule.ExitCodes == nil {
			v.required(codes, "must be specified")
			continue
		}
		oneOf(v, codes.Child("operator"), rule.ExitCodes.Operator, v1.ContainerRestartRuleOnExitCodesOpIn, v1.ContainerRestartRuleOnExitCodesOpNotIn)
		if n := len(rule.ExitCodes.Values); n > maxExitCodes {
			v.add(field.TooMany(codes.Child("values"), n, maxExitCodes))
		}
	}
}
