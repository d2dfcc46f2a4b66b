package admission

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/skiff-k8s/skiff/apiserver/builtin/podspec"
	"github.com/skiff-k8s/skiff/quota"
)

// Annotations of a namespace, whose values are lists of tolerations in JSON.
const (
	defaultTolerationsAnnotation = "scheduler.alpha.kubernetes.io/defaultTolerations"
	allowedTolerationsAnnotation = "scheduler.alpha.kubernetes.io/tolerationsWhitelist"
)

// tolerationLimits is the configuration of PodTolerationRestriction: what holds for namespaces that say nothing.
type tolerationLimits struct {
	metav1.TypeMeta
	Default []corev1.Toleration `json:"default,omitempty"`
	Allowed []corev1.Toleration `json:"whitelist,omitempty"`
}

// DeepCopyObject makes it an object that a decoder can make. It is never copied.
func (c *tolerationLimits) DeepCopyObject() runtime.Object {
	shallow := *c
	return &shallow
}

// podTolerationRestriction gives pods the tolerations of their namespace, and holds them to those allowed there.
func podTolerationRestriction(data []byte) (Plugin, error) {
	config, err := decodeOwn(data, "podtolerationrestriction.admission.k8s.io", &tolerationLimits{})
	if err != nil {
		return Plugin{}, err
	}
	at := field.NewPath("podtolerationrestriction")
	if problems := append(podspec.ValidateTolerations(config.Default, at.Child("default")), podspec.ValidateTolerations(config.Allowed, at.Child("whitelist"))...); len(problems) > 0 {
		return Plugin{}, fmt.Errorf("invalid config: %v", problems)
	}
	return Plugin{Name: "PodTolerationRestriction",
		Mutate: func(ctx context.Context, a *Attributes) error {
			pod := writtenPod(a)
			if pod == nil {
				return nil
			}
			if err := config.add(ctx, a, pod); err != nil {
				return err
			}
			return config.check(ctx, a, pod)
		},
		// Webhooks may have changed it since.
		Validate: func(ctx context.Context, a *Attributes) error {
			if pod := writtenPod(a); pod != nil {
				return config.check(ctx, a, pod)
			}
			return nil
		},
	}, nil
}

// writtenPod is the pod that a creates or updates, nil if a does not.
func writtenPod(a *Attributes) *corev1.Pod {
	if a.Verb != create && a.Verb != update || !a.is("", "pods") {
		return nil
	}
	pod, _ := a.New.(*corev1.Pod)
	return pod
}

// add merges tolerations into those of a pod. One that is not best effort tolerates that its node is short of memory.
func (c *tolerationLimits) add(ctx context.Context, a *Attributes, pod *corev1.Pod) error {
	var more []corev1.Toleration
	if a.Verb == create {
		own, stated, err := tolerationsOf(ctx, a, defaultTolerationsAnnotation)
		if err != nil {
			return err
		}
		if more = own; !stated {
			more = slices.Clone(c.Default)
		}
	}
	if !quota.BestEffort(pod) {
		more = append(more, corev1.Toleration{Key: corev1.TaintNodeMemoryPressure, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule})
	}
	if len(more) > 0 {
		pod.Spec.Tolerations = mergeTolerations(slices.Concat(pod.Spec.Tolerations, more))
	}
	return nil
}

// check refuses tolerations that are not allowed, unless all are.
func (c *tolerationLimits) check(ctx context.Context, a *Attributes, pod *corev1.Pod) error {
	if len(pod.Spec.Tolerations) == 0 {
		return nil
	}
	allowed, stated, err := tolerationsOf(ctx, a, allowedTolerationsAnnotation)
	if err != nil {
		return err
	}
	scope := "namespace"
	if !stated {
		allowed, scope = c.Allowed, "cluster"
	}
	if len(allowed) == 0 {
		return nil
	}
	for _, t := range pod.Spec.Tolerations {
		if !slices.ContainsFunc(allowed, func(wide corev1.Toleration) bool { return includes(wide, t) }) {
			return plainError(fmt.Errorf("pod tolerations (possibly merged with namespace default tolerations) conflict with its %s whitelist", scope))
		}
	}
	return nil
}

// tolerationsOf reads an annotation of the namespace of a. stated: it is there.
func tolerationsOf(ctx context.Context, a *Attributes, annotation string) (list []corev1.Toleration, stated bool, err error) {
	namespace, err := get[*corev1.Namespace](ctx, a.Cluster, "", "namespaces", "", a.Namespace)
	if err != nil {
		return nil, false, err
	}
	text, stated := namespace.Annotations[annotation]
	if text == "" {
		return nil, stated, nil
	}
	if err := json.Unmarshal([]byte(text), &list); err != nil {
		return nil, true, plainError(err)
	}
	return list, list != nil, nil
}

// mergeTolerations leaves out each toleration that another one includes; of equal ones the first stays.
func mergeTolerations(all []corev1.Toleration) (merged []corev1.Toleration) {
	for i, t := range all {
		before := slices.ContainsFunc(merged, func(other corev1.Toleration) bool { return includes(other, t) })
		after := slices.ContainsFunc(all[i+1:], func(other corev1.Toleration) bool {
			return !equality.Semantic.DeepEqual(t, other) && includes(other, t)
		})
		if !before && !after {
			merged = append(merged, t)
		}
	}
	return merged
}

// includes reports whether wide tolerates all that t does.
func includes(wide, t corev1.Toleration) bool {
	if equality.Semantic.DeepEqual(wide, t) {
		return true
	}
	everyKey := wide.Key == "" && wide.Operator == corev1.TolerationOpExists
	switch {
	case t.Key != wide.Key && !everyKey, t.Effect != wide.Effect && wide.Effect != "":
		return false
	case wide.Effect == corev1.TaintEffectNoExecute && wide.TolerationSeconds != nil && (t.TolerationSeconds == nil || *t.TolerationSeconds > *wide.TolerationSeconds):
		return false
	}
	switch wide.Operator {
	case corev1.TolerationOpEqual, "":
		return t.Operator == corev1.TolerationOpEqual && t.Value == wide.Value
	case corev1.TolerationOpExists:
		return true
	}
	return false
}
