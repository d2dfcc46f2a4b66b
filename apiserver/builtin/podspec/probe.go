package podspec

import (
	"fmt"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func (v *validator) checkProbes(c *v1.Container, path *field.Path) {
	if p := c.LivenessProbe; p != nil {
		v.checkProbe(p, path.Child("livenessProbe"))
		v.checkSuccessOne(p, path.Child("livenessProbe"))
	}
	if p := c.ReadinessProbe; p != nil {
		v.checkProbe(p, path.Child("readinessProbe"))
		if p.TerminationGracePeriodSeconds != nil {
			v.invalid(path.Child("readinessProbe", "terminationGracePeriodSeconds"), p.TerminationGracePeriodSeconds, "must not be set for readinessProbes")
		}
	}
	if p := c.StartupProbe; p != nil {
		v.checkProbe(p, path.Child("startupProbe"))
		v.checkSuccessOne(p, path.Child("startupProbe"))
	}
}

func (v *validator) checkSuccessOne(p *v1.Probe, path *field.Path) {
	if p.SuccessThreshold != 1 {
		v.invalid(path.Child("successThreshold"), p.SuccessThreshold, "must be 1")
	}
}

func (v *validator) checkProbe(p *v1.Probe, path *field.Path) {
	v.checkHandler(handler{exec: p.Exec, httpGet: p.HTTPGet, tcp: p.TCPSocket, grpc: p.GRPC}, path)
	v.notNegative(path.Child("initialDelaySeconds"), int64(p.InitialDelaySeconds))
	v.notNegative(path.Child("timeoutSeconds"), int64(p.TimeoutSeconds))
	v.notNegative(path.Child("periodSeconds"), int64(p.PeriodSeconds))
	v.notNegative(path.Child("successThreshold"), int64(p.SuccessThreshold))
	v.notNegative(path.Child("failureThreshold"), int64(p.FailureThreshold))
	if s := p.TerminationGracePeriodSeconds; s != nil && *s <= 0 {
		v.invalid(path.Child("terminationGracePeriodSeconds"), *s, "must be greater than 0")
	}
}

// checkLifecycle checks hooks. lifecycle.stopSignal is not among them: it is
// dropped before (see DropDisabled).
func (v *validator) checkLifecycle(l *v1.Lifecycle, path *field.Path) {
	if l == nil {
		return
	}
	if h := l.PostStart; h != nil {
		v.checkHandler(handler{exec: h.Exec, httpGet: h.HTTPGet, tcp: h.TCPSocket, sleep: h.Sleep}, path.Child("postStart"))
	}
	if h := l.PreStop; h != nil {
		v.checkHandler(handler{exec: h.Exec, httpGet: h.HTTPGet, tcp: h.TCPSocket, sleep: h.Sleep}, path.Child("preStop"))
	}
}

// handler is what a probe or a hook does; exactly one of its fields is set.
type handler struct {
	exec    *v1.ExecAction
	httpGet *v1.HTTPGetAction
	tcp     *v1.TCPSocketAction
	grpc    *v1.GRPCAction
	sleep   *v1.SleepAction
}

func (v *validator) checkHandler(h handler, path *field.Path) {
	count := 0
	action := func(set bool, name string, check func(path *field.Path)) {
		if !set {
			return
		}
		if count++; count > 1 {
			v.forbidden(path.Child(name), "may not specify more than 1 handler type")
			return
		}
		check(path.Child(name))
	}
	action(h.exec != nil, "exec", func(at *field.Path) {
		if len(h.exec.Command) == 0 {
			v.required(at.Child("command"), "")
		}
	})
	action(h.httpGet != nil, "httpGet", func(at *field.Path) { v.checkHTTPGet(h.httpGet, at) })
	action(h.tcp != nil, "tcpSocket", func(at *field.Path) { v.checkPort(h.tcp.Port, at.Child("port")) })
	action(h.grpc != nil, "grpc", func(at *field.Path) { v.checkPort(intstr.FromInt32(h.grpc.Port), at.Child("port")) })
	action(h.sleep != nil, "sleep", func(at *field.Path) {
		grace := v.spec.TerminationGracePeriodSeconds
		if grace != nil && (h.sleep.Seconds < 0 || h.sleep.Seconds > *grace) {
			v.invalid(at, h.sleep.Seconds, fmt.Sprintf("must be non-negative and less than terminationGracePeriodSeconds (%d)", *grace))
		}
	})
	if count == 0 {
		v.required(path, "must specify a handler type")
	}
}

func (v *validator) checkHTTPGet(a *v1.HTTPGetAction, path *field.Path) {
	v.need(path.Child("path"), a.Path)
	v.checkPort(a.Port, path.Child("port"))
	oneOf(v, path.Child("scheme"), a.Scheme, v1.URISchemeHTTP, v1.URISchemeHTTPS)
	for _, header := range a.HTTPHeaders {
		v.messages(path.Child("httpHeaders"), header.Name, validation.IsHTTPHeaderName(header.Name))
	}
}

// checkPort demands the number or the name of a port.
func (v *validator) checkPort(port intstr.IntOrString, path *field.Path) {
	if port.Type == intstr.Int {
		v.messages(path, port.IntValue(), validation.IsValidPortNum(port.IntValue()))
		return
	}
	v.messages(path, port.StrVal, validation.IsValidPortName(port.StrVal))
}
