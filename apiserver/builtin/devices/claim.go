package devices

import (
	"strings"

	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/skiff-k8s/skiff/apiserver/builtin/check"
	"github.com/skiff-k8s/skiff/apiserver/builtin/table"
	"github.com/skiff-k8s/skiff/apiserver/resource"
)

type claim = resourcev1.ResourceClaim

func resourceClaims(z authorizer.Authorizer) *resource.Resource {
	return resource.Define[resourcev1.ResourceClaimList](resource.Definition[claim]{
		Group: group, Version: "v1", Kind: "ResourceClaim", Plural: "resourceclaims", Older: []string{"v1beta2"},
		AnswersDeleted: true,
		Default:        defaultClaim,
		Prepare:        prepareClaim,
		Permit:         permitClaim,
		Validate:       validateClaim,
		Columns: []resource.Column[*claim]{
			resource.NameColumn[*claim](),
			table.Text("State", "A summary of the current state (allocated, pending, reserved, etc.).", stateColumn),
			resource.AgeColumn[*claim](),
		},
		Subresources: []resource.Subresource[claim]{{
			Name: "status", View: true, Prepare: prepareClaimStatus, Reset: []string{"metadata", "spec"},
			Permit: permitStatus(z), Validate: validateClaimStatus,
		}},
	})
}

func defaultClaim(c *claim) {
	defaultClaimSpec(&c.Spec)
	if c.Status.Allocation == nil {
		return
	}
	for i := range c.Status.Allocation.Devices.Results {
		defaultTolerations(c.Status.Allocation.Devices.Results[i].Tolerations)
	}
}

func defaultClaimSpec(s *resourcev1.ResourceClaimSpec) {
	for i := range s.Devices.Requests {
		request := &s.Devices.Requests[i]
		if e := request.Exactly; e != nil {
			defaultCount(&e.AllocationMode, &e.Count)
			defaultTolerations(e.Tolerations)
		}
		for j := range request.FirstAvailable {
			sub := &request.FirstAvailable[j]
			defaultCount(&sub.AllocationMode, &sub.Count)
			defaultTolerations(sub.Tolerations)
		}
	}
}

func defaultCount(mode *resourcev1.DeviceAllocationMode, count *int64) {
	if *mode == "" {
		*mode = resourcev1.DeviceAllocationModeExactCount
	}
	if *mode == resourcev1.DeviceAllocationModeExactCount && *count == 0 {
		*count = 1
	}
}

func defaultTolerations(list []resourcev1.DeviceToleration) {
	for i := range list {
		if list[i].Operator == "" {
			list[i].Operator = resourcev1.DeviceTolerationOpEqual
		}
	}
}

func prepareClaim(c, old *claim) {
	c.Status = resourcev1.ResourceClaimStatus{}
	if old != nil {
		c.Status = *old.Status.DeepCopy()
	}
}

// prepareClaimStatus also forgets what drivers said of devices that the claim
// has no more.
func prepareClaimStatus(c, old *claim) {
	c.Spec = *old.Spec.DeepCopy()
	metav1.ResetObjectMetaForStatus(&c.ObjectMeta, &old.ObjectMeta)
	has, had := allocated(c), allocated(old)
	var kept []resourcev1.AllocatedDeviceStatus
	for _, d := range c.Status.Devices {
		if id := statusID(&d); has.Has(id) || !had.Has(id) {
			kept = append(kept, d)
		}
	}
	c.Status.Devices = kept
}

func validateClaim(c, old *claim) field.ErrorList {
	at := field.NewPath("spec")
	if old != nil {
		return check.Unchanged(c.Spec, old.Spec, at)
	}
	return validateClaimSpec(&c.Spec, at)
}

func stateColumn(c *claim) string {
	var states []string
	if c.DeletionTimestamp != nil {
		states = append(states, "deleted")
	}
	switch {
	case c.Status.Allocation != nil:
		states = append(states, "allocated")
		if len(c.Status.ReservedFor) > 0 {
			states = append(states, "reserved")
		}
	case c.DeletionTimestamp == nil:
		states = append(states, "pending")
	}
	return strings.Join(states, ",")
}
