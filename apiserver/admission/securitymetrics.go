package admission

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
	utilversion "k8s.io/apimachinery/pkg/util/version"
	"k8s.io/pod-security-admission/api"

	"github.com/skiff-k8s/skiff/apiserver/version"
)

// The modes of Pod Security, as metrics name them.
const (
	enforced = "enforce"
	audited  = "audit"
	warned   = "warn"
)

// securityMetrics count what Pod Security decides, by the names and labels of kube-apiserver.
type securityMetrics struct{ evaluations, exemptions, errors *prometheus.CounterVec }

// newSecurityMetrics makes counters; a nil registry leaves them unregistered.
func newSecurityMetrics(registry prometheus.Registerer) securityMetrics {
	on := []string{"request_operation", "resource", "subresource"}
	m := securityMetrics{
		evaluations: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "pod_security_evaluations_total",
			Help: "Number of policies that pods were held against."}, append([]string{"decision", "policy_level", "policy_version", "mode"}, on...)),
		exemptions: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "pod_security_exemptions_total",
			Help: "Number of requests that no policy applied to."}, on),
		errors: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "pod_security_errors_total",
			Help: "Number of errors that kept a policy from being found out; fatal ones refused the request."}, append([]string{"fatal"}, on...)),
	}
	for _, verb := range []string{create, update} {
		m.evaluations.WithLabelValues("allow", string(api.LevelPrivileged), "latest", enforced, verb, "pod", "")
		for _, resource := range []string{"pod", "controller"} {
			m.exemptions.WithLabelValues(verb, resource, "")
		}
	}
	if registry != nil {
		registry.MustRegister(m.evaluations, m.exemptions, m.errors)
	}
	return m
}

func (m securityMetrics) evaluated(a *Attributes, lv api.LevelVersion, mode string, allowed bool) {
	decision := "deny"
	if allowed {
		decision = "allow"
	}
	m.evaluations.WithLabelValues(decision, string(lv.Level), policyVersion(lv), mode, a.Verb, securityResource(a), a.Subresource).Inc()
}

func (m securityMetrics) exempted(a *Attributes) {
	m.exemptions.WithLabelValues(a.Verb, securityResource(a), a.Subresource).Inc()
}

func (m securityMetrics) failed(a *Attributes, fatal bool) {
	m.errors.WithLabelValues(strconv.FormatBool(fatal), a.Verb, securityResource(a), a.Subresource).Inc()
}

// policyVersion has few values, whatever people write into labels: versions to come are one.
func policyVersion(lv api.LevelVersion) string {
	release := utilversion.MustParse(version.Kubernetes)
	ours := api.MajorMinorVersion(int(release.Major()), int(release.Minor()))
	switch {
	case lv.Version.Latest() || lv.Level == api.LevelPrivileged:
		return "latest"
	case ours.Older(lv.Version):
		return "future"
	}
	return lv.Version.String()
}

func securityResource(a *Attributes) string {
	switch {
	case a.Resource.Group == "" && a.Resource.Plural == "pods":
		return "pod"
	case a.Resource.Group == "" && a.Resource.Plural == "namespaces":
		return "namespace"
	}
	return "controller"
}
