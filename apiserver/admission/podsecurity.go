package admission

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
)

// podSecurity holds pods to the Pod Security Standard that the labels of their
// namespace name (KEP-2579). Without labels everything is allowed.
func podSecurity(m securityMetrics) Plugin {
	return Plugin{Name: "PodSecurity", Validate: func(ctx context.Context, a *Attributes) error {
		if a.Verb != create && a.Verb != update {
			return nil
		}
		switch {
		case a.Resource.IsNamespace():
			return securityOfNamespace(ctx, a)
		case a.Resource.Group == "" && a.Resource.Plural == "pods":
			return securityOfPod(ctx, a, m)
		case a.Subresource == "":
			return securityOfTemplate(ctx, a, m)
		}
		return nil
	}}
}

// privileged is the policy of namespaces without labels.
var privileged = api.Policy{
	Enforce: api.LevelVersion{Level: api.LevelPrivileged, Version: api.LatestVersion()},
	Audit:   api.LevelVersion{Level: api.LevelPrivileged, Version: api.LatestVersion()},
	Warn:    api.LevelVersion{Level: api.LevelPrivileged, Version: api.LatestVersion()},
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

// podSubresources are those that can change what a pod may do.
var podSubresources = []string{"", "ephemeralcontainers", "resize"}

func securityOfPod(ctx context.Context, a *Attributes, m securityMetrics) error {
	pod, ok := a.New.(*corev1.Pod)
	if !ok || !slices.Contains(podSubresources, a.Subresource) {
		return nil
	}
	p, errs, err := namespacePolicy(ctx, a)
	if err != nil {
		m.failed(a, true)
		return apierrors.NewInternalError(fmt.Errorf("failed to lookup namespace %q", a.Namespace))
	}
	if len(errs) == 0 && p.FullyPrivileged() {
		m.evaluated(a, p.Enforce, enforced, true)
		return nil
	}
	if old, _ := a.Old.(*corev1.Pod); old != nil && !runsOther(pod, old) {
		return nil
	}
	if len(errs) > 0 {
		m.failed(a, false)
	}
	a.audit("pod-security.kubernetes.io/"+api.EnforcedPolicyAnnotationKey, p.Enforce.String())
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

// securityOfTemplate only warns: pods made of the template will be judged.
func securityOfTemplate(ctx context.Context, a *Attributes, m securityMetrics) error {
	template := podTemplate(a)
	if template == nil {
		return nil
	}
	p, errs, err := namespacePolicy(ctx, a)
	if err != nil {
		m.failed(a, true)
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

func namespacePolicy(ctx context.Context, a *Attributes) (api.Policy, field.ErrorList, error) {
	namespace, err := get[*corev1.Namespace](ctx, a.Cluster, "", "namespaces", "", a.Namespace)
	if err != nil {
		return api.Policy{}, nil, err
	}
	p, errs := api.PolicyToEvaluate(namespace.Labels, privileged)
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

func securityOfNamespace(ctx context.Context, a *Attributes) error {
	namespace, ok := a.New.(*corev1.Namespace)
	if !ok || a.Subresource != "" {
		return nil
	}
	p, errs := api.PolicyToEvaluate(namespace.Labels, privileged)
	old, _ := a.Old.(*corev1.Namespace)
	var oldErrs field.ErrorList
	oldPolicy := privileged
	if old != nil {
		oldPolicy, oldErrs = api.PolicyToEvaluate(old.Labels, privileged)
	}
	// Labels that were wrong before are no obstacle to other changes.
	if len(errs) > 0 && errs.ToAggregate().Error() != fmt.Sprint(oldErrs.ToAggregate()) {
		return apierrors.NewInvalid(a.Resource.GVK().GroupKind(), namespace.Name, errs)
	}
	if old == nil || !stricter(p.Enforce, oldPolicy.Enforce) {
		return nil
	}
	return warnOfPods(ctx, a, p.Enforce)
}

func stricter(now, before api.LevelVersion) bool {
	if now == before || now.Level == api.LevelPrivileged {
		return false
	}
	return now.Version != before.Version || api.CompareLevels(now.Level, before.Level) > 0
}

// warnOfPods tells which pods would not be admitted any more.
func warnOfPods(ctx context.Context, a *Attributes, lv api.LevelVersion) error {
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

func others(n int) string {
	switch n {
	case 0:
		return ""
	case 1:
		return " (and 1 other pod)"
	}
	return fmt.Sprintf(" (and %d other pods)", n)
}
