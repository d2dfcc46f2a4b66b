// Package node holds the kinds of node.k8s.io.
package node

import (
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/skiff-k8s/skiff/apiserver/builtin/check"
	"github.com/skiff-k8s/skiff/apiserver/builtin/podspec"
	"github.com/skiff-k8s/skiff/apiserver/builtin/table"
	"github.com/skiff-k8s/skiff/apiserver/resource"
)

// Resources are the rows of the group in the order of discovery.
func Resources() []*resource.Resource { return []*resource.Resource{runtimeClasses()} }

func runtimeClasses() *resource.Resource {
	type class = nodev1.RuntimeClass
	return resource.Define[nodev1.RuntimeClassList](resource.Definition[class]{
		Group: "node.k8s.io", Version: "v1", Kind: "RuntimeClass", Plural: "runtimeclasses",
		ClusterScoped:  true,
		Validate:       validateRuntimeClass,
		Meta:           resource.MetaAnyFinalizer,
		Warn:           warnRuntimeClass,
		CreateOnUpdate: true,
		NeedsVersion:   true,
		Columns: []resource.Column[*class]{
			resource.NameColumn[*class](),
			table.Text("Handler", "", func(c *class) string { return c.Handler }),
			resource.AgeColumn[*class](),
		},
	})
}

func validateRuntimeClass(c, old *nodev1.RuntimeClass) field.ErrorList {
	var errs field.ErrorList
	handler := field.NewPath("handler")
	if c.Handler == "" {
		errs = append(errs, field.Required(handler, ""))
	} else {
		errs = append(errs, check.Label(c.Handler, handler)...)
	}
	if c.Overhead != nil {
		for name, quantity := range c.Overhead.PodFixed {
			at := field.NewPath("overhead", "limits").Key(string(name))
			errs = append(errs, check.ContainerResource(name, at)...)
			errs = append(errs, podspec.ValidateQuantity(name, quantity, at)...)
		}
	}
	if s := c.Scheduling; s != nil {
		errs = append(errs, metav1validation.ValidateLabels(s.NodeSelector, field.NewPath("scheduling", "nodeSelector"))...)
		errs = append(errs, validateTolerations(s.Tolerations, field.NewPath("scheduling", "tolerations"))...)
	}
	if old != nil {
		errs = append(errs, check.Immutable(c.Handler, old.Handler, handler)...)
	}
	return errs
}

func validateTolerations(list []corev1.Toleration, at *field.Path) field.ErrorList {
	errs := podspec.ValidateTolerations(list, at)
	seen := make(map[corev1.Toleration]bool)
	for i, t := range list {
		key := corev1.Toleration{Key: t.Key, Operator: t.Operator, Value: t.Value, Effect: t.Effect}
		if seen[key] {
			errs = append(errs, field.Duplicate(at.Index(i), podspec.Untagged(t)))
		}
		seen[key] = true
	}
	return errs
}

func warnRuntimeClass(c, _ *nodev1.RuntimeClass) []string {
	if c.Scheduling == nil {
		return nil
	}
	var warnings []string
	for _, label := range slices.Sorted(maps.Keys(c.Scheduling.NodeSelector)) {
		if message, ok := podspec.DeprecatedNodeLabels[label]; ok {
			warnings = append(warnings, "scheduling.nodeSelector: "+message)
		}
	}
	return warnings
}
