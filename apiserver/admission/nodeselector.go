package admission

import (
	"context"
	"errors"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/yaml"
)

// nodeSelectorAnnotation of a namespace is the node selector of its pods.
const nodeSelectorAnnotation = "scheduler.alpha.kubernetes.io/node-selector"

// defaultSelector is the key of the selector of namespaces without the annotation, beside those of namespaces.
const defaultSelector = "clusterDefaultNodeSelector"

// podNodeSelector gives new pods the node selector of their namespace, and holds them to what the configuration allows there.
func podNodeSelector(data []byte) (Plugin, error) {
	var config struct {
		Selectors map[string]string `json:"podNodeSelectorPluginConfig"`
	}
	if err := yaml.Unmarshal(data, &config); err != nil {
		return Plugin{}, err
	}
	check := func(ctx context.Context, a *Attributes, pod *corev1.Pod) (labels.Set, error) {
		wanted, err := namespaceSelector(ctx, a, config.Selectors[defaultSelector])
		if err != nil {
			return nil, err
		}
		if labels.Conflicts(wanted, pod.Spec.NodeSelector) {
			return nil, refusePod(a, pod, "pod node label selector conflicts with its namespace node label selector")
		}
		return labels.Merge(wanted, pod.Spec.NodeSelector), nil
	}
	allowed := func(a *Attributes, pod *corev1.Pod) error {
		all, err := selectorLabels(config.Selectors[a.Namespace])
		if err != nil || len(all) == 0 {
			return err
		}
		for key, value := range pod.Spec.NodeSelector {
			if may, ok := all[key]; !ok || may != value {
				return refusePod(a, pod, "pod node label selector labels conflict with its namespace whitelist")
			}
		}
		return nil
	}
	return Plugin{Name: "PodNodeSelector",
		Mutate: func(ctx context.Context, a *Attributes) error {
			pod := a.newPod()
			if pod == nil {
				return nil
			}
			selector, err := check(ctx, a, pod)
			if err != nil {
				return err
			}
			pod.Spec.NodeSelector = selector
			return allowed(a, pod)
		},
		// Webhooks may have changed it since.
		Validate: func(ctx context.Context, a *Attributes) error {
			pod := a.newPod()
			if pod == nil {
				return nil
			}
			if _, err := check(ctx, a, pod); err != nil {
				return err
			}
			return allowed(a, pod)
		},
	}, nil
}

func namespaceSelector(ctx context.Context, a *Attributes, otherwise string) (labels.Set, error) {
	namespace, err := get[*corev1.Namespace](ctx, a.Cluster, "", "namespaces", "", a.Namespace)
	if err != nil {
		return nil, err
	}
	if own, ok := namespace.Annotations[nodeSelectorAnnotation]; ok {
		otherwise = own
	}
	return selectorLabels(otherwise)
}

func selectorLabels(text string) (labels.Set, error) {
	set, err := labels.ConvertSelectorToLabelsMap(text)
	if err != nil {
		return nil, plainError(err)
	}
	return set, nil
}

// refusePod names the pod as it is, which may have no name yet.
func refusePod(a *Attributes, pod *corev1.Pod, reason string) error {
	return apierrors.NewForbidden(a.Resource.GR(), pod.Name, errors.New(reason))
}
