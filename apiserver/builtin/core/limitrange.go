package core

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/google/uuid"
	corev1 "k8s.io/api/core/v1"
	quantity "k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/skiff-k8s/skiff/apiserver/builtin/check"
	"github.com/skiff-k8s/skiff/apiserver/resource"
)

func limitRanges() *resource.Resource {
	return resource.Define[corev1.LimitRangeList](resource.Definition[corev1.LimitRange]{
		Version: "v1", Kind: "LimitRange", Plural: "limitranges", ShortNames: []string{"limits"},
		Default:        defaultLimitRange,
		Prepare:        nameLimitRange,
		Validate:       validateLimitRange,
		CreateOnUpdate: true,
	})
}

// nameLimitRange gives a LimitRange without a name one, alone among all kinds.
func nameLimitRange(l, old *corev1.LimitRange) {
	if old == nil && l.Name == "" {
		l.Name = uuid.NewString()
	}
}

func defaultLimitRange(l *corev1.LimitRange) {
	for i := range l.Spec.Limits {
		item := &l.Spec.Limits[i]
		for _, list := range []corev1.ResourceList{item.Max, item.Min, item.Default, item.DefaultRequest, item.MaxLimitRequestRatio} {
			roundQuantities(list)
		}
		if item.Type != corev1.LimitTypeContainer {
			continue
		}
		item.Default = fillFrom(item.Default, item.Max)
		item.DefaultRequest = fillFrom(item.DefaultRequest, item.Default)
		item.DefaultRequest = fillFrom(item.DefaultRequest, item.Min)
	}
}

// fillFrom adds what list lacks of from.
func fillFrom(list, from corev1.ResourceList) corev1.ResourceList {
	if list == nil {
		list = make(corev1.ResourceList)
	}
	for name, q := range from {
		if _, ok := list[name]; !ok {
			list[name] = q.DeepCopy()
		}
	}
	return list
}

func validateLimitRange(l, _ *corev1.LimitRange) field.ErrorList {
	var errs field.ErrorList
	seen := make(map[corev1.LimitType]bool)
	for i := range l.Spec.Limits {
		item, path := &l.Spec.Limits[i], field.NewPath("spec", "limits").Index(i)
		errs = append(errs, validateLimitType(item.Type, path.Child("type"))...)
		if seen[item.Type] {
			errs = append(errs, field.Duplicate(path.Child("type"), item.Type))
		}
		seen[item.Type] = true
		errs = append(errs, validateLimits(item, path)...)
	}
	return errs
}

func validateLimitType(t corev1.LimitType, path *field.Path) field.ErrorList {
	if errs := check.Qualified(string(t), path); len(errs) > 0 {
		return errs
	}
	known := t == corev1.LimitTypePod || t == corev1.LimitTypeContainer || t == corev1.LimitTypePersistentVolumeClaim
	if !known && !hasSlash(string(t)) {
		return field.ErrorList{field.Invalid(path, t, "must be a standard limit type or fully qualified")}
	}
	return nil
}

func validateLimits(item *corev1.LimitRangeItem, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	names := make(map[corev1.ResourceName]bool)
	for _, list := range []struct {
		name string
		of   corev1.ResourceList
	}{
		{"max", item.Max}, {"min", item.Min}, {"default", item.Default},
		{"defaultRequest", item.DefaultRequest}, {"maxLimitRequestRatio", item.MaxLimitRequestRatio},
	} {
		if item.Type == corev1.LimitTypePod && strings.HasPrefix(list.name, "default") {
			if len(list.of) > 0 {
				errs = append(errs, field.Forbidden(path.Child(list.name), "may not be specified when `type` is 'Pod'"))
			}
			continue
		}
		for name := range list.of {
			errs = append(errs, validateLimitName(item.Type, name, path.Child(list.name).Key(string(name)))...)
			names[name] = true
		}
	}
	_, least := item.Min[corev1.ResourceStorage]
	_, most := item.Max[corev1.ResourceStorage]
	if item.Type == corev1.LimitTypePersistentVolumeClaim && !least && !most {
		errs = append(errs, field.Required(path.Child("limits"), "either minimum or maximum storage value is required, but neither was provided"))
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		errs = append(errs, compareLimits(item, name, path)...)
	}
	return errs
}

func validateLimitName(t corev1.LimitType, name corev1.ResourceName, path *field.Path) field.ErrorList {
	if t == corev1.LimitTypePod || t == corev1.LimitTypeContainer {
		return check.ContainerResource(name, path)
	}
	return check.Resource(name, path)
}

// compareLimits checks the order min ≤ default request ≤ default ≤ max of one
// resource.
func compareLimits(item *corev1.LimitRangeItem, name corev1.ResourceName, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	inOrder := func(low, high corev1.ResourceList, lowName, highName, at string, value corev1.ResourceList) {
		l, hasLow := low[name]
		h, hasHigh := high[name]
		if hasLow && hasHigh && l.Cmp(h) > 0 {
			errs = append(errs, field.Invalid(path.Child(at).Key(string(name)), value[name], fmt.Sprintf("%s value %s is greater than %s value %s", lowName, l.String(), highName, h.String())))
		}
	}
	inOrder(item.Min, item.Max, "min", "max", "min", item.Min)
	inOrder(item.Min, item.DefaultRequest, "min", "default request", "defaultRequest", item.DefaultRequest)
	inOrder(item.DefaultRequest, item.Max, "default request", "max", "defaultRequest", item.DefaultRequest)
	inOrder(item.DefaultRequest, item.Default, "default request", "default limit", "defaultRequest", item.DefaultRequest)
	inOrder(item.Min, item.Default, "min", "default", "default", item.Min)
	inOrder(item.Default, item.Max, "default", "max", "default", item.Max)
	errs = append(errs, validateRatio(item, name, path.Child("maxLimitRequestRatio").Key(string(name)))...)
	limit, hasLimit := item.Default[name]
	request, hasRequest := item.DefaultRequest[name]
	if !overcommitted(name) && hasLimit && hasRequest && limit.Cmp(request) != 0 {
		errs = append(errs, field.Invalid(path.Child("defaultRequest").Key(string(name)), request, fmt.Sprintf("default value %s must equal to defaultRequest value %s in %s", limit.String(), request.String(), name)))
	}
	return errs
}

// overcommitted reports whether a node may promise more of a resource than it
// has.
func overcommitted(name corev1.ResourceName) bool {
	native := !hasSlash(string(name)) || strings.Contains(string(name), corev1.ResourceDefaultNamespacePrefix)
	return native && !strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix)
}

func validateRatio(item *corev1.LimitRangeItem, name corev1.ResourceName, path *field.Path) field.ErrorList {
	ratio, ok := item.MaxLimitRequestRatio[name]
	if !ok {
		return nil
	}
	var errs field.ErrorList
	if ratio.Cmp(*quantity.NewQuantity(1, quantity.DecimalSI)) < 0 {
		errs = append(errs, field.Invalid(path, ratio, fmt.Sprintf("ratio %s is less than 1", ratio.String())))
	}
	least, hasLeast := item.Min[name]
	most, hasMost := item.Max[name]
	if !hasLeast || !hasMost {
		return errs
	}
	if highest := most.AsApproximateFloat64() / least.AsApproximateFloat64(); ratio.AsApproximateFloat64() > highest {
		errs = append(errs, field.Invalid(path, ratio, fmt.Sprintf("ratio %s is greater than max/min = %f", ratio.String(), highest)))
	}
	return errs
}
