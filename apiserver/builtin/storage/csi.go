package storage

import (
	"fmt"
	"slices"
	"strings"

	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/apiserver/builtin/check"
	"github.com/skiff-k8s/skiff/apiserver/builtin/core"
	"github.com/skiff-k8s/skiff/apiserver/builtin/table"
	"github.com/skiff-k8s/skiff/apiserver/resource"
)

func csiDrivers() *resource.Resource {
	type driver = storagev1.CSIDriver
	spec := storagev1.CSIDriverSpec{}
	return resource.Define[storagev1.CSIDriverList](resource.Definition[driver]{
		Group: group, Version: "v1", Kind: "CSIDriver", Plural: "csidrivers",
		AnswersDeleted: true,
		ClusterScoped:  true,
		NeedsVersion:   true,
		Default:        defaultDriver,
		// Drivers begin without a generation and get one with their first change.
		Prepare: func(d, old *driver) {
			if old != nil && !equality.Semantic.DeepEqual(d.Spec, old.Spec) {
				d.Generation = old.Generation + 1
			}
		},
		Validate: validateDriver,
		Warn: func(d, old *driver) []string {
			if old != nil || len(d.Spec.TokenRequests) == 0 || d.Spec.ServiceAccountTokenInSecrets != nil {
				return nil
			}
			return []string{"spec.serviceAccountTokenInSecrets is unset; if supported by this CSI driver, set to true to prevent possible logging of tokens in volume attributes"}
		},
		Columns: []resource.Column[*driver]{
			resource.NameColumn[*driver](),
			table.Bool("AttachRequired", table.Doc(spec, "attachRequired"), func(d *driver) bool { return ptr.Deref(d.Spec.AttachRequired, true) }),
			table.Bool("PodInfoOnMount", table.Doc(spec, "podInfoOnMount"), func(d *driver) bool { return ptr.Deref(d.Spec.PodInfoOnMount, false) }),
			table.Bool("StorageCapacity", table.Doc(spec, "storageCapacity"), func(d *driver) bool { return ptr.Deref(d.Spec.StorageCapacity, false) }),
			table.Text("TokenRequests", table.Doc(spec, "tokenRequests"), audiencesColumn),
			table.Bool("RequiresRepublish", table.Doc(spec, "requiresRepublish"), func(d *driver) bool { return ptr.Deref(d.Spec.RequiresRepublish, false) }),
			table.Text("Modes", table.Doc(spec, "volumeLifecycleModes"), modesColumn),
			resource.AgeColumn[*driver](),
		},
	})
}

func defaultDriver(d *storagev1.CSIDriver) {
	defaultTo(&d.Spec.AttachRequired, true)
	defaultTo(&d.Spec.PodInfoOnMount, false)
	defaultTo(&d.Spec.StorageCapacity, false)
	defaultTo(&d.Spec.FSGroupPolicy, storagev1.ReadWriteOnceWithFSTypeFSGroupPolicy)
	defaultTo(&d.Spec.RequiresRepublish, false)
	defaultTo(&d.Spec.SELinuxMount, false)
	if len(d.Spec.VolumeLifecycleModes) == 0 {
		d.Spec.VolumeLifecycleModes = []storagev1.VolumeLifecycleMode{storagev1.VolumeLifecyclePersistent}
	}
}

func defaultTo[T any](field **T, value T) {
	if *field == nil {
		*field = &value
	}
}

func validateDriver(d, old *storagev1.CSIDriver) field.ErrorList {
	const shortest = 10 // seconds between updates of what a node can take
	at := field.NewPath("spec")
	var errs field.ErrorList
	if p := d.Spec.FSGroupPolicy; p != nil {
		errs = append(errs, check.Supported(*p, at.Child("fsGroupPolicy"), storagev1.FileFSGroupPolicy, storagev1.NoneFSGroupPolicy, storagev1.ReadWriteOnceWithFSTypeFSGroupPolicy)...)
	}
	errs = append(errs, validateTokenRequests(d.Spec.TokenRequests, at.Child("tokenRequests"))...)
	for _, mode := range d.Spec.VolumeLifecycleModes {
		errs = append(errs, check.Supported(mode, at.Child("volumeLifecycleModes"), storagev1.VolumeLifecyclePersistent, storagev1.VolumeLifecycleEphemeral)...)
	}
	if n := d.Spec.NodeAllocatableUpdatePeriodSeconds; n != nil && *n < shortest {
		errs = append(errs, field.Invalid(at.Child("nodeAllocatableUpdatePeriodSeconds"), *n, fmt.Sprintf("must be greater than or equal to %d seconds", shortest)))
	}
	if d.Spec.ServiceAccountTokenInSecrets != nil && len(d.Spec.TokenRequests) == 0 {
		errs = append(errs, field.Invalid(at.Child("serviceAccountTokenInSecrets"), d.Spec.ServiceAccountTokenInSecrets, "serviceAccountTokenInSecrets is set but no tokenRequests are specified"))
	}
	if old == nil {
		return errs
	}
	errs = append(errs, validation.ValidateImmutableField(d.Spec.AttachRequired, old.Spec.AttachRequired, at.Child("attachedRequired"))...)
	return append(errs, validation.ValidateImmutableField(d.Spec.VolumeLifecycleModes, old.Spec.VolumeLifecycleModes, at.Child("volumeLifecycleModes"))...)
}

func validateTokenRequests(requests []storagev1.TokenRequest, at *field.Path) field.ErrorList {
	const tenMinutes, longest = 600, int64(1) << 32
	var errs field.ErrorList
	seen := make(map[string]bool)
	for i, r := range requests {
		if seen[r.Audience] {
			errs = append(errs, field.Duplicate(at.Index(i).Child("audience"), r.Audience))
			continue
		}
		seen[r.Audience] = true
		seconds, path := r.ExpirationSeconds, at.Index(i).Child("expirationSeconds")
		if seconds != nil && *seconds < tenMinutes {
			errs = append(errs, field.Invalid(path, *seconds, "may not specify a duration less than 10 minutes"))
		}
		if seconds != nil && *seconds > longest {
			errs = append(errs, field.Invalid(path, *seconds, "may not specify a duration larger than 2^32 seconds"))
		}
	}
	return errs
}

func audiencesColumn(d *storagev1.CSIDriver) string {
	if d.Spec.TokenRequests == nil {
		return "<unset>"
	}
	var audiences []string
	for _, r := range d.Spec.TokenRequests {
		audiences = append(audiences, r.Audience)
	}
	return strings.Join(audiences, ",")
}

func modesColumn(d *storagev1.CSIDriver) string {
	var modes []string
	for _, mode := range d.Spec.VolumeLifecycleModes {
		modes = append(modes, string(mode))
	}
	return table.OrNone(strings.Join(modes, ","))
}

func csiNodes() *resource.Resource {
	type node = storagev1.CSINode
	return resource.Define[storagev1.CSINodeList](resource.Definition[node]{
		Group: group, Version: "v1", Kind: "CSINode", Plural: "csinodes",
		AnswersDeleted: true,
		ClusterScoped:  true,
		NeedsVersion:   true,
		Validate:       validateNode,
		Columns: []resource.Column[*node]{
			resource.NameColumn[*node](),
			table.Number("Drivers", "Drivers indicates the number of CSI drivers registered on the node", func(n *node) int64 { return int64(len(n.Spec.Drivers)) }),
			resource.AgeColumn[*node](),
		},
	})
}

func validateNode(n, old *storagev1.CSINode) field.ErrorList {
	at := field.NewPath("spec", "drivers")
	var errs field.ErrorList
	names := make(map[string]bool)
	for i := range n.Spec.Drivers {
		d := &n.Spec.Drivers[i]
		errs = append(errs, validateNodeDriver(d, at.Index(i))...)
		if names[d.Name] {
			errs = append(errs, field.Duplicate(at.Index(i).Child("name"), d.Name))
		}
		names[d.Name] = true
	}
	if old == nil {
		return errs
	}
	for _, was := range old.Spec.Drivers {
		for _, is := range n.Spec.Drivers {
			if is.Name == was.Name {
				// How many volumes fit is found anew as disks come and go.
				is.Allocatable, was.Allocatable = nil, nil
				errs = append(errs, check.Unchanged(is, was, at)...)
			}
		}
	}
	return errs
}

func validateNodeDriver(d *storagev1.CSINodeDriver, at *field.Path) field.ErrorList {
	const longest = 256
	errs := core.ValidateDriverName(d.Name, at.Child("name"))
	if d.NodeID == "" {
		errs = append(errs, field.Required(at.Child("nodeID"), ""))
	}
	if len(d.NodeID) > longest {
		errs = append(errs, field.Invalid(at.Child("nodeID"), d.NodeID, fmt.Sprintf("must be %d characters or less", longest)))
	}
	if d.Allocatable != nil && d.Allocatable.Count != nil {
		errs = append(errs, validation.ValidateNonnegativeField(int64(*d.Allocatable.Count), at.Child("allocatable", "count"))...)
	}
	for i, key := range d.TopologyKeys {
		if key == "" {
			errs = append(errs, field.Required(at, ""))
		}
		if slices.Contains(d.TopologyKeys[:i], key) {
			errs = append(errs, field.Duplicate(at, key))
		}
		errs = append(errs, check.Qualified(key, at)...)
	}
	return errs
}

func csiStorageCapacities() *resource.Resource {
	return resource.Define[storagev1.CSIStorageCapacityList](resource.Definition[storagev1.CSIStorageCapacity]{
		Group: group, Version: "v1", Kind: "CSIStorageCapacity", Plural: "csistoragecapacities",
		NeedsVersion: true,
		Validate:     validateCapacity,
	})
}

func validateCapacity(c, old *storagev1.CSIStorageCapacity) field.ErrorList {
	options := metav1validation.LabelSelectorValidationOptions{}
	if old != nil {
		options.AllowInvalidLabelValueInSelector = len(metav1validation.ValidateLabelSelector(old.NodeTopology, options, nil)) > 0
	}
	errs := metav1validation.ValidateLabelSelector(c.NodeTopology, options, field.NewPath("nodeTopology"))
	errs = append(errs, check.Subdomain(c.StorageClassName, field.NewPath("storageClassName"))...)
	if c.Capacity != nil && c.Capacity.Sign() < 0 {
		errs = append(errs, field.Invalid(field.NewPath("capacity"), c.Capacity.String(), validation.IsNegativeErrorMsg))
	}
	if old == nil {
		return errs
	}
	if !equality.Semantic.DeepEqual(c.NodeTopology, old.NodeTopology) {
		errs = append(errs, field.Invalid(field.NewPath("nodeTopology"), c.NodeTopology, "field is immutable"))
	}
	return append(errs, check.Immutable(c.StorageClassName, old.StorageClassName, field.NewPath("storageClassName"))...)
}
