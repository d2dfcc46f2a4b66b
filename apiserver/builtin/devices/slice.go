package devices

import (
	"fmt"
	"strings"
	"time"

	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/apiserver/builtin/check"
	"github.com/skiff-k8s/skiff/apiserver/builtin/core"
	"github.com/skiff-k8s/skiff/apiserver/builtin/podspec"
	"github.com/skiff-k8s/skiff/apiserver/builtin/table"
	"github.com/skiff-k8s/skiff/apiserver/resource"
)

type slice = resourcev1.ResourceSlice

func resourceSlices() *resource.Resource {
	spec := resourcev1.ResourceSliceSpec{}
	return resource.Define[resourcev1.ResourceSliceList](resource.Definition[slice]{
		Group: group, Version: "v1", Kind: "ResourceSlice", Plural: "resourceslices", Older: []string{"v1beta2"},
		AnswersDeleted: true,
		ClusterScoped:  true,
		Default:        defaultSlice,
		Prepare:        prepareSlice,
		Validate:       validateSlice,
		Warn:           warnSlice,
		Fields: map[string]func(*slice) string{
			resourcev1.ResourceSliceSelectorNodeName: nodeOf,
			resourcev1.ResourceSliceSelectorDriver:   func(s *slice) string { return s.Spec.Driver },
		},
		IndexBy: resourcev1.ResourceSliceSelectorNodeName,
		Columns: []resource.Column[*slice]{
			resource.NameColumn[*slice](),
			table.Text("Node", table.Doc(spec, "nodeName"), nodeOf),
			table.Text("Driver", table.Doc(spec, "driver"), func(s *slice) string { return s.Spec.Driver }),
			table.Text("Pool", table.Doc(resourcev1.ResourcePool{}, "name"), func(s *slice) string { return s.Spec.Pool.Name }),
			resource.AgeColumn[*slice](),
		},
	})
}

func nodeOf(s *slice) string { return ptr.Deref(s.Spec.NodeName, "") }

func defaultSlice(s *slice) {
	for i := range s.Spec.Devices {
		for j := range s.Spec.Devices[i].Taints {
			if t := &s.Spec.Devices[i].Taints[j]; t.TimeAdded == nil {
				t.TimeAdded = &metav1.Time{Time: time.Now().Truncate(time.Second)}
			}
		}
	}
}

// prepareSlice drops the fields of features that are off by default. The
// generation counts those changes too.
func prepareSlice(s, old *slice) {
	switch {
	case old == nil:
		s.Generation = 1
	case !equality.Semantic.DeepEqual(s.Spec, old.Spec):
		s.Generation = old.Generation + 1
	}
	for i := range s.Spec.Devices {
		d := &s.Spec.Devices[i]
		d.NodeAllocatableResourceMappings = nil
		for name, a := range d.Attributes {
			a.BoolValues, a.IntValues, a.StringValues, a.VersionValues = nil, nil, nil, nil
			d.Attributes[name] = a
		}
	}
}

func warnSlice(s, _ *slice) []string {
	if driver := s.Spec.Driver; driver != strings.ToLower(driver) {
		return []string{fmt.Sprintf("spec.driver: driver names should be lowercase; %q contains uppercase characters", driver)}
	}
	return nil
}

func validateSlice(s, old *slice) field.ErrorList {
	at, spec := field.NewPath("spec"), &s.Spec
	errs := core.ValidateDriverName(spec.Driver, at.Child("driver"))
	errs = append(errs, validatePool(&spec.Pool, at.Child("pool"))...)
	if old != nil {
		errs = append(errs, validation.ValidateImmutableField(spec.Pool.Name, old.Spec.Pool.Name, at.Child("pool", "name"))...)
		errs = append(errs, validation.ValidateImmutableField(spec.Driver, old.Spec.Driver, at.Child("driver"))...)
		errs = append(errs, validation.ValidateImmutableField(spec.NodeName, old.Spec.NodeName, at.Child("nodeName"))...)
	}
	errs = append(errs, validateNodes(spec, at)...)
	if spec.SharedCounters != nil && spec.Devices != nil {
		errs = append(errs, field.Invalid(at, "", "only one of `sharedCounters` or `devices` is allowed"))
	}
	most := resourcev1.ResourceSliceMaxDevices
	var before map[string]*resourcev1.Device
	if old != nil {
		before = byName(old.Spec.Devices)
	}
	for i := range spec.Devices {
		if d := &spec.Devices[i]; len(d.Taints) > 0 || len(d.ConsumesCounters) > 0 {
			most = resourcev1.ResourceSliceMaxDevicesWithAdvancedFeatures
		}
	}
	perDevice := ptr.Deref(spec.PerDeviceNodeSelection, false)
	errs = append(errs, eachOnce(spec.Devices, most, at.Child("devices"), func(d *resourcev1.Device) string { return d.Name }, func(d *resourcev1.Device, at *field.Path) field.ErrorList {
		return validateDevice(d, before[d.Name], perDevice, at)
	})...)
	return append(errs, eachOnce(spec.SharedCounters, resourcev1.ResourceSliceMaxCounterSets, at.Child("sharedCounters"),
		func(c *resourcev1.CounterSet) string { return c.Name }, func(c *resourcev1.CounterSet, at *field.Path) field.ErrorList {
			return validateCounters(c.Name, c.Counters, resourcev1.ResourceSliceMaxCountersPerCounterSet, at.Child("name"), at.Child("counters"))
		})...)
}

func byName(devices []resourcev1.Device) map[string]*resourcev1.Device {
	m := make(map[string]*resourcev1.Device, len(devices))
	for i := range devices {
		if _, ok := m[devices[i].Name]; !ok {
			m[devices[i].Name] = &devices[i]
		}
	}
	return m
}

func validatePool(p *resourcev1.ResourcePool, at *field.Path) field.ErrorList {
	errs := validatePoolName(p.Name, at.Child("name"))
	if p.ResourceSliceCount <= 0 {
		errs = append(errs, field.Invalid(at.Child("resourceSliceCount"), p.ResourceSliceCount, "must be greater than zero"))
	}
	if p.Generation < 0 {
		errs = append(errs, field.Invalid(at.Child("generation"), p.Generation, "must be greater than or equal to zero"))
	}
	return errs
}

// validateNodes checks by which nodes the devices can be used.
func validateNodes(s *resourcev1.ResourceSliceSpec, at *field.Path) field.ErrorList {
	var set choice
	errs := set.node(s.NodeName, at.Child("nodeName"), "must be either unset or set to a non-empty string")
	if s.NodeSelector != nil {
		set.add("nodeSelector")
		errs = append(errs, podspec.ValidateNodeSelector(s.NodeSelector, nil, at.Child("nodeSelector"))...)
		if terms := s.NodeSelector.NodeSelectorTerms; len(terms) != 1 {
			errs = append(errs, field.Invalid(at.Child("nodeSelector", "nodeSelectorTerms"), podspec.Untagged(terms), "must have exactly one node selector term"))
		}
	}
	errs = append(errs, set.yes("allNodes", s.AllNodes, at)...)
	errs = append(errs, set.yes("perDeviceNodeSelection", s.PerDeviceNodeSelection, at)...)
	const one = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required"
	switch len(set) {
	case 0:
		return append(errs, field.Required(at, one))
	case 1:
		return errs
	}
	return append(errs, field.Invalid(at, set.value(), one+", but multiple fields are set"))
}

// node notes the name of a node and checks it; empty says what is wrong with an
// empty one.
func (c *choice) node(name *string, at *field.Path, empty string) field.ErrorList {
	switch {
	case name == nil:
		return nil
	case *name == "":
		return field.ErrorList{field.Invalid(at, "", empty)}
	}
	c.add("nodeName")
	return check.Invalid(at, *name, validation.NameIsDNSSubdomain(*name, false))
}

// yes notes a field that can be true or unset.
func (c *choice) yes(name string, value *bool, at *field.Path) field.ErrorList {
	switch {
	case value == nil:
		return nil
	case !*value:
		return field.ErrorList{field.Invalid(at.Child(name), false, "must be either unset or set to true")}
	}
	c.add(name)
	return nil
}

// validateCounters checks a set of counters, or what a device takes from one.
func validateCounters(name string, counters map[string]resourcev1.Counter, most int, nameAt, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if name == "" {
		errs = append(errs, field.Required(nameAt, ""))
	} else {
		errs = append(errs, check.Label(name, nameAt)...)
	}
	if len(counters) == 0 {
		return append(errs, field.Required(at, ""))
	}
	anything := func(resourcev1.Counter, *field.Path) field.ErrorList { return nil }
	return append(errs, eachEntry(counters, most, utilvalidation.DNS1123LabelMaxLength, at, check.Label, anything)...)
}
