package devices

import (
	"fmt"
	"regexp"

	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/apiserver/builtin/check"
	"github.com/skiff-k8s/skiff/apiserver/builtin/podspec"
)

// validateDevice checks a device; old is what it was, or nil. Taints that stay
// as they were are not judged again.
func validateDevice(d, old *resourcev1.Device, perDevice bool, at *field.Path) field.ErrorList {
	errs := check.Label(d.Name, at.Child("name"))
	if n := len(d.Attributes) + len(d.Capacity); n > resourcev1.ResourceSliceMaxAttributesAndCapacitiesPerDevice {
		errs = append(errs, field.Invalid(at, n, fmt.Sprintf("the total number of attributes and capacities must not exceed %d", resourcev1.ResourceSliceMaxAttributesAndCapacitiesPerDevice)))
	}
	if n := len(d.Attributes); n > resourcev1.ResourceSliceMaxAttributeValuesPerDevice {
		errs = append(errs, field.Invalid(at, n, fmt.Sprintf("the total number of attribute values must not exceed %d", resourcev1.ResourceSliceMaxAttributeValuesPerDevice)))
	}
	const longest = resourcev1.DeviceMaxDomainLength + 1 + resourcev1.DeviceMaxIDLength
	errs = append(errs, eachEntry(d.Attributes, len(d.Attributes), longest, at.Child("attributes"), validateName, validateAttribute)...)
	shared := ptr.Deref(d.AllowMultipleAllocations, false)
	errs = append(errs, eachEntry(d.Capacity, len(d.Capacity), longest, at.Child("capacity"), validateName, func(c resourcev1.DeviceCapacity, at *field.Path) field.ErrorList {
		return validateCapacity(c, shared, at)
	})...)
	if old == nil || !equality.Semantic.DeepEqual(old.Taints, d.Taints) {
		errs = append(errs, each(d.Taints, resourcev1.DeviceTaintsMaxLength, at.Child("taints"), validateTaint)...)
	}
	errs = append(errs, eachOnce(d.ConsumesCounters, resourcev1.ResourceSliceMaxDeviceCounterConsumptionsPerDevice, at.Child("consumesCounters"),
		func(c *resourcev1.DeviceCounterConsumption) string { return c.CounterSet },
		func(c *resourcev1.DeviceCounterConsumption, at *field.Path) field.ErrorList {
			return validateCounters(c.CounterSet, c.Counters, resourcev1.ResourceSliceMaxCountersPerDeviceCounterConsumption, at.Child("counterSet"), at.Child("counters"))
		})...)
	errs = append(errs, validateDeviceNodes(d, perDevice, at)...)
	return append(errs, validateBinding(d.BindingConditions, d.BindingFailureConditions, at)...)
}

// validateDeviceNodes checks by which nodes a device can be used, where each
// device says so itself.
func validateDeviceNodes(d *resourcev1.Device, perDevice bool, at *field.Path) field.ErrorList {
	if !perDevice {
		if d.NodeName != nil || d.NodeSelector != nil || d.AllNodes != nil {
			return field.ErrorList{field.Invalid(at, nil, "`nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is set to true in the ResourceSlice spec")}
		}
		return nil
	}
	var set choice
	errs := set.node(d.NodeName, at.Child("nodeName"), "must not be empty")
	if d.NodeSelector != nil {
		set.add("nodeSelector")
		errs = append(errs, podspec.ValidateNodeSelector(d.NodeSelector, nil, at.Child("nodeSelector"))...)
	}
	errs = append(errs, set.yes("allNodes", d.AllNodes, at)...)
	const one = "exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when `perDeviceNodeSelection` is set to true in the ResourceSlice spec"
	switch len(set) {
	case 0:
		return append(errs, field.Required(at, one))
	case 1:
		return errs
	}
	return append(errs, field.Invalid(at, set.value(), one))
}

// version is a version by semver.org 2.0.0.
var version = regexp.MustCompile(`^(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)` +
	`(-(0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*)(\.(0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*))*)?` +
	`(\+[0-9a-zA-Z-]+(\.[0-9a-zA-Z-]+)*)?$`)

func validateAttribute(a resourcev1.DeviceAttribute, at *field.Path) field.ErrorList {
	const longest = resourcev1.DeviceAttributeMaxValueLength
	var errs field.ErrorList
	values := 0
	for _, set := range []bool{a.BoolValue != nil, a.IntValue != nil, a.StringValue != nil, a.VersionValue != nil} {
		if set {
			values++
		}
	}
	if s := a.StringValue; s != nil && len(*s) > longest {
		errs = append(errs, field.TooLong(at.Child("string"), "", longest))
	}
	if v := a.VersionValue; v != nil {
		if !version.MatchString(*v) {
			errs = append(errs, field.Invalid(at.Child("version"), *v, "must be a string compatible with semver.org spec 2.0.0"))
		}
		if len(*v) > longest {
			errs = append(errs, field.TooLong(at.Child("version"), "", longest))
		}
	}
	switch values {
	case 0:
		return append(errs, field.Invalid(at, "", "exactly one value must be specified"))
	case 1:
		return errs
	}
	return append(errs, field.Invalid(at, podspec.Untagged(a), "exactly one value must be specified"))
}

func validateTaint(t *resourcev1.DeviceTaint, at *field.Path) field.ErrorList {
	errs := metav1validation.ValidateLabelName(t.Key, at.Child("key"))
	if t.Value != "" {
		errs = append(errs, check.Invalid(at.Child("value"), t.Value, validation.IsValidLabelValue(t.Value))...)
	}
	return append(errs, check.OneOf(t.Effect, at.Child("effect"), effects...)...)
}
