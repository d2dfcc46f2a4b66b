package admission

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	securityapi "k8s.io/pod-security-admission/admission/api"
	"k8s.io/pod-security-admission/admission/api/load"
	"k8s.io/pod-security-admission/admission/api/validation"
	"k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
)

// security is Pod Security with what a configuration says of it.
type security struct {
	defaults api.Policy // of namespaces without labels
	exempt   securityapi.PodSecurityExemptions
	metrics  securityMetrics
}

// podSecurity holds pods to the Pod Security Standard that the labels of their namespace name (KEP-2579), or else the
// configuration. Without both everything is allowed.
func podSecurity(data []byte, m securityMetrics) (Plugin, error) {
	config, err := load.LoadFromData(data)
	if err != nil {
		return Plugin{}, err
	}
	s := &security{exempt: config.Exemptions, metrics: m}
	if s.defaults, err = securityapi.ToPolicy(config.Defaults); err != nil {
		return Plugin{}, lateError{fmt.Errorf("PodSecurity configuration error: %w", err)}
	}
	if err := validation.ValidatePodSecurityConfiguration(config).ToAggregate(); err != nil {
		return Plugin{}, lateError{fmt.Errorf("PodSecurity invalid: %w", err)}
	}
	return Plugin{Name: "PodSecurity", Validate: func(ctx context.Context, a *Attributes) error {
		if a.Verb != create && a.Verb != update {
			return nil
		}
		switch {
		case a.Resource.IsNamespace():
			return s.ofNamespace(ctx, a)
		case a.Resource.Group == "" && a.Resource.Plural == "pods":
			return s.ofPod(ctx, a)
		case a.Subresource == "":
			return s.ofTemplate(ctx, a)
		}
		return nil
	}}, nil
}

// exempts reports whether nothing holds for who asks, and where, and notes it.
func (s *security) exempts(a *Attributes) bool {
	switch {
	case slices.Contains(s.exempt.Namespaces, a.Namespace):
		s.exempted(a, "namespace")
		return true
	case a.User != nil && slices.Contains(s.exempt.Usernames, a.User.GetName()):
		s.exempted(a, "user")
		return true
	}
	return false
}

// exemptsClass is exempts for the runtime class of a pod.
func (s *security) exemptsClass(a *Attributes, spec *corev1.PodSpec) bool {
	if !s.isExemptClass(spec) {
		return false
	}
	s.exempted(a, "runtimeClass")
	return true
}

func (s *security) isExemptClass(spec *corev1.PodSpec) bool {
	return spec.RuntimeClassName != nil && slices.Contains(s.exempt.RuntimeClasses, *spec.RuntimeClassName)
}

func (s *security) exempted(a *Attributes, why string) {
	a.audit("pod-security.kubernetes.io/"+api.ExemptionReasonAnnotationKey, why)
	s.metrics.exempted(a)
}

// standards are the checks of all levels and versions, made when first needed.
var standards = sync.OnceValues(func() (policy.Evaluator, error) {
	return policy.NewEvaluator(policy.DefaultChecks(), nil)
})

// evaluate holds a pod against a standard.
func evaluate(lv api.LevelVersion, meta *metav1.ObjectMeta, spec *corev1.PodSpec) (policy.AggregateCheckResult, error) {
	checks, err := standards()
	if err != nil {
		return policy.AggregateCheckResult{}, apierrors.NewInternalError(fmt.Errorf("prepare pod security checks: %w", err))
	}
	return policy.AggregateCheckResults(checks.EvaluatePod(lv, meta, spec)), nil
}

// enforcedNote is the audit annotation that says which standard a pod was held to.
const enforcedNote = "pod-security.kubernetes.io/" + api.EnforcedPolicyAnnotationKey

// podSubresources are those that can change what a pod may do.
var podSubresources = []string{"", "ephemeralcontainers", "resize"}

func (s *security) ofPod(ctx context.Context, a *Attributes) error {
	m := s.metrics
	pod, ok := a.New.(*corev1.Pod)
	if !ok || !slices.Contains(podSubresources, a.Subresource) {
		return nil
	}
	if s.exempts(a) {
		return nil
	}
	p, errs, err := s.namespacePolicy(ctx, a)
	if err != nil {
		m.failed(a, true)
		return apierrors.NewInternalError(fmt.Errorf("failed to lookup namespace %q", a.Namespace))
	}
	if len(errs) == 0 && p.FullyPrivileged() {
		a.audit(enforcedNote, p.Enforce.String())
		m.evaluated(a, p.Enforce, enforced, true)
		return nil
	}
	if old, _ := a.Old.(*corev1.Pod); old != nil && !runsOther(pod, old) {
		return nil
	}
	if s.exemptsClass(a, &pod.Spec) {
		return nil
	}
	if len(errs) > 0 {
		m.failed(a, false)
	}
	a.audit(enforcedNote, p.Enforce.String())
	result, err := evaluate(p.Enforce, &pod.ObjectMeta, &pod.Spec)
	if err != nil {
		return err
	}
	m.evaluated(a, p.Enforce, enforced, result.Allowed)
	if err := tell(a, m, p, &pod.ObjectMeta, &pod.Spec, result.Allowed); err != nil || result.Allowed {
		return err
	}
	return a.forbid("violates PodSecurity %q: %s", p.Enforce.String(), result.ForbiddenDetail())
}

// ofTemplate only warns: pods made of the template will be judged.
func (s *security) ofTemplate(ctx context.Context, a *Attributes) error {
	m := s.metrics
	template := podTemplate(a)
	if template == nil || s.exempts(a) {
		return nil
	}
	p, errs, err := s.namespacePolicy(ctx, a)
	if err != nil {
		m.failed(a, true)
		return nil
	}
	if len(errs) == 0 && p.Warn.Level == api.LevelPrivileged && p.Audit.Level == api.LevelPrivileged || s.exemptsClass(a, &template.Spec) {
		return nil
	}
	if len(errs) > 0 {
		m.failed(a, false)
	}
	return tell(a, m, p, &template.ObjectMeta, &template.Spec, true)
}

func podTemplate(a *Attributes) *corev1.PodTemplateSpec {
	switch o := a.New.(type) {
	case *corev1.PodTemplate:
		return &o.Template
	case *corev1.ReplicationController:
		return o.Spec.Template
	case *appsv1.Deployment:
		return &o.Spec.Template
	case *appsv1.ReplicaSet:
		return &o.Spec.Template
	case *appsv1.StatefulSet:
		return &o.Spec.Template
	case *appsv1.DaemonSet:
		return &o.Spec.Template
	case *batchv1.Job:
		return &o.Spec.Template
	case *batchv1.CronJob:
		return &o.Spec.JobTemplate.Spec.Template
	}
	return nil
}

// tell notes what is against the standards that are not enforced. Who is refused anyway is not warned besides.
func tell(a *Attributes, m securityMetrics, p api.Policy, meta *metav1.ObjectMeta, spec *corev1.PodSpec, warn bool) error {
	for _, mode := range []struct {
		name string
		lv   api.LevelVersion
		note func(text string)
	}{
		{audited, p.Audit, func(text string) { a.audit("pod-security.kubernetes.io/"+api.AuditViolationsAnnotationKey, text) }},
		{warned, p.Warn, func(text string) { a.warn("%s", text) }},
	} {
		if mode.name == warned && !warn {
			continue
		}
		result, err := evaluate(mode.lv, meta, spec)
		if err != nil {
			return err
		}
		if !result.Allowed {
			m.evaluated(a, mode.lv, mode.name, false)
			mode.note(fmt.Sprintf("would violate PodSecurity %q: %s", mode.lv.String(), result.ForbiddenDetail()))
		}
	}
	return nil
}

func (s *security) namespacePolicy(ctx context.Context, a *Attributes) (api.Policy, field.ErrorList, error) {
	namespace, err := get[*corev1.Namespace](ctx, a.Cluster, "", "namespaces", "", a.Namespace)
	if err != nil {
		return api.Policy{}, nil, err
	}
	p, errs := api.PolicyToEvaluate(namespace.Labels, s.defaults)
	return p, errs, nil
}

// runsOther reports whether an update changes what a pod runs.
func runsOther(pod, old *corev1.Pod) bool {
	images := func(p *corev1.Pod) []string {
		var list []string
		for _, c := range p.Spec.InitContainers {
			list = append(list, c.Image)
		}
		for _, c := range p.Spec.Containers {
			list = append(list, c.Image)
		}
		for _, c := range p.Spec.EphemeralContainers {
			list = append(list, c.Name, c.Image)
		}
		return list
	}
	return !slices.Equal(images(pod), images(old))
}

func (s *security) ofNamespace(ctx context.Context, a *Attributes) error {
	namespace, ok := a.New.(*corev1.Namespace)
	if !ok || a.Subresource != "" {
		return nil
	}
	p, errs := api.PolicyToEvaluate(namespace.Labels, s.defaults)
	old, _ := a.Old.(*corev1.Namespace)
	var oldErrs field.ErrorList
	oldPolicy := s.defaults
	if old != nil {
		oldPolicy, oldErrs = api.PolicyToEvaluate(old.Labels, s.defaults)
	}
	// Labels that were wrong before are no obstacle to other changes.
	if len(errs) > 0 && errs.ToAggregate().Error() != fmt.Sprint(oldErrs.ToAggregate()) {
		return apierrors.NewInvalid(a.Resource.GVK().GroupKind(), namespace.Name, errs)
	}
	if old != nil && !stricter(p.Enforce, oldPolicy.Enforce) {
		return nil
	}
	if slices.Contains(s.exempt.Namespaces, namespace.Name) {
		s.warnOfExemption(a, namespace, p)
		return nil
	}
	if old == nil {
		return nil
	}
	return s.warnOfPods(ctx, a, p.Enforce)
}

func stricter(now, before api.LevelVersion) bool {
	if now == before || now.Level == api.LevelPrivileged {
		return false
	}
	return now.Version != before.Version || api.CompareLevels(now.Level, before.Level) > 0
}

// warnOfPods tells which pods would not be admitted any more.
func (s *security) warnOfPods(ctx context.Context, a *Attributes, lv api.LevelVersion) error {
	const (
		maxPods = 3000
		maxTime = time.Second
	)
	pods, err := list[*corev1.Pod](ctx, a.Cluster, "", "pods", a.Name)
	if err != nil {
		a.warn("failed to list pods while checking new PodSecurity enforce level")
		return nil
	}
	deadline := time.Now().Add(maxTime)
	names := make(map[string][]string)
	checked := 0
	for _, pod := range pods {
		if checked == maxPods || time.Now().After(deadline) {
			a.warn("new PodSecurity enforce level only checked against the first %d of %d existing pods", checked, len(pods))
			break
		}
		checked++
		if s.isExemptClass(&pod.Spec) {
			continue
		}
		result, err := evaluate(lv, &pod.ObjectMeta, &pod.Spec)
		if err != nil {
			return err
		}
		if !result.Allowed {
			problem := result.ForbiddenReason()
			names[problem] = append(names[problem], pod.Name)
		}
	}
	if len(names) == 0 {
		return nil
	}
	a.warn("existing pods in namespace %q violate the new PodSecurity enforce level %q", a.Name, lv.String())
	var lines []string
	for problem, list := range names {
		lines = append(lines, slices.Min(list)+others(len(list)-1)+": "+problem)
	}
	slices.Sort(lines)
	for _, line := range lines {
		a.warn("%s", line)
	}
	return nil
}

// warnOfExemption says that labels of a namespace have no effect.
func (s *security) warnOfExemption(a *Attributes, namespace *corev1.Namespace, p api.Policy) {
	if p.FullyPrivileged() || p.Equivalent(&s.defaults) {
		return
	}
	var modes []string
	for _, mode := range []struct {
		name, level, version string
		lv                   api.LevelVersion
	}{
		{enforced, api.EnforceLevelLabel, api.EnforceVersionLabel, p.Enforce}, {audited, api.AuditLevelLabel, api.AuditVersionLabel, p.Audit},
		{warned, api.WarnLevelLabel, api.WarnVersionLabel, p.Warn},
	} {
		_, level := namespace.Labels[mode.level]
		_, version := namespace.Labels[mode.version]
		if mode.lv.Level != api.LevelPrivileged && (level || version) {
			modes = append(modes, mode.name+"="+mode.lv.String())
		}
	}
	a.warn("namespace %q is exempt from Pod Security, and the policy (%s) will be ignored", namespace.Name, strings.Join(modes, ", "))
}

func others(n int) string {
	switch n {
	case 0:
		return ""
	case 1:
		return " (and 1 other pod)"
	}
	return fmt.Sprintf(" (and %d other pods)", n)
}
