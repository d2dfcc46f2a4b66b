// Package scheduling holds the kinds of scheduling.k8s.io.
package scheduling

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/apiserver/builtin/check"
	"github.com/skiff-k8s/skiff/apiserver/builtin/table"
	"github.com/skiff-k8s/skiff/apiserver/resource"
)

// Priorities above HighestUser, and names that begin with SystemPrefix, belong
// to the classes of System.
const (
	HighestUser  = int32(1000000000)
	SystemPrefix = "system-"
)

// System are the classes that are there from the start, by name.
var System = map[string]int32{
	"system-cluster-critical": 2 * HighestUser,
	"system-node-critical":    2*HighestUser + 1000,
}

// Resources are the rows of the group in the order of discovery.
func Resources() []*resource.Resource { return []*resource.Resource{priorityClasses()} }

func priorityClasses() *resource.Resource {
	type class = schedulingv1.PriorityClass
	return resource.Define[schedulingv1.PriorityClassList](resource.Definition[class]{
		Group: "scheduling.k8s.io", Version: "v1", Kind: "PriorityClass", Plural: "priorityclasses", ShortNames: []string{"pc"},
		ClusterScoped: true,
		Default: func(c *class) {
			if c.PreemptionPolicy == nil {
				c.PreemptionPolicy = ptr.To(corev1.PreemptLowerPriority)
			}
		},
		Validate: validatePriorityClass,
		// Nothing about a class can change that would count.
		Generation: func(_, _ *class) bool { return false },
		Columns: []resource.Column[*class]{
			resource.NameColumn[*class](),
			table.Number("Value", table.Doc(class{}, "value"), func(c *class) int64 { return int64(c.Value) }),
			table.Bool("Global-Default", table.Doc(class{}, "globalDefault"), func(c *class) bool { return c.GlobalDefault }),
			resource.AgeColumn[*class](),
			table.Text("PreemptionPolicy", table.Doc(class{}, "preemptionPolicy"), func(c *class) string {
				return string(ptr.Deref(c.PreemptionPolicy, ""))
			}),
		},
	})
}

func validatePriorityClass(c, old *schedulingv1.PriorityClass) field.ErrorList {
	if old != nil {
		return validatePriorityClassUpdate(c, old)
	}
	var errs field.ErrorList
	switch value, isSystem := System[c.Name]; {
	case isSystem && value == c.Value:
	case strings.HasPrefix(c.Name, SystemPrefix):
		errs = append(errs, field.Forbidden(field.NewPath("metadata", "name"),
			fmt.Sprintf("priority class names with '%s' prefix are reserved for system use only. error: %s", SystemPrefix, whyNotSystem(c))))
	case c.Value > HighestUser:
		errs = append(errs, field.Forbidden(field.NewPath("value"), fmt.Sprintf("maximum allowed value of a user defined priority is %d", HighestUser)))
	}
	if c.PreemptionPolicy != nil {
		errs = append(errs, validatePreemption(*c.PreemptionPolicy)...)
	}
	return errs
}

func whyNotSystem(c *schedulingv1.PriorityClass) string {
	value, ok := System[c.Name]
	switch {
	case !ok:
		return fmt.Sprintf("%s is not a known system priority class", c.Name)
	case value != c.Value:
		return fmt.Sprintf("value of %s PriorityClass must be %d", c.Name, value)
	}
	return ""
}

func validatePreemption(p corev1.PreemptionPolicy) field.ErrorList {
	return check.OneOf(p, field.NewPath("preemptionPolicy"), corev1.PreemptLowerPriority, corev1.PreemptNever)
}

func validatePriorityClassUpdate(c, old *schedulingv1.PriorityClass) field.ErrorList {
	var errs field.ErrorList
	if c.Value != old.Value {
		errs = append(errs, field.Forbidden(field.NewPath("value"), "may not be changed in an update."))
	}
	if !ptr.Equal(c.PreemptionPolicy, old.PreemptionPolicy) {
		errs = append(errs, field.Invalid(field.NewPath("preemptionPolicy"), c.PreemptionPolicy, "field is immutable"))
	}
	return errs
}
