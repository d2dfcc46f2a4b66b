package devices

import (
	"fmt"
	"slices"
	"strings"

	"github.com/google/uuid"
	resourcev1 "k8s.io/api/resource/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/dynamic-resource-allocation/structured/schedulerapi"

	"github.com/skiff-k8s/skiff/apiserver/builtin/check"
	"github.com/skiff-k8s/skiff/apiserver/builtin/core"
	"github.com/skiff-k8s/skiff/apiserver/builtin/podspec"
)

// allocated are the devices, or shares of devices, that a claim has.
func allocated(c *claim) sets.Set[schedulerapi.SharedDeviceID] {
	ids := sets.New[schedulerapi.SharedDeviceID]()
	if c.Status.Allocation == nil {
		return ids
	}
	for _, r := range c.Status.Allocation.Devices.Results {
		ids.Insert(schedulerapi.MakeSharedDeviceID(schedulerapi.MakeDeviceID(r.Driver, r.Pool, r.Device), r.ShareID))
	}
	return ids
}

// statusID is the device, or the share of one, that a driver tells of.
func statusID(d *resourcev1.AllocatedDeviceStatus) schedulerapi.SharedDeviceID {
	return schedulerapi.MakeSharedDeviceID(schedulerapi.MakeDeviceID(d.Driver, d.Pool, d.Device), (*types.UID)(d.ShareID))
}

func validateClaimStatus(c, old *claim) field.ErrorList {
	at, s := field.NewPath("status"), &c.Status
	errs := eachOnce(s.ReservedFor, resourcev1.ResourceClaimReservedForMaxSize, at.Child("reservedFor"),
		func(r *resourcev1.ResourceClaimConsumerReference) types.UID { return r.UID }, validateConsumer)
	has := allocated(c)
	errs = append(errs, eachOnce(s.Devices, len(s.Devices), at.Child("devices"), statusID, func(d *resourcev1.AllocatedDeviceStatus, at *field.Path) field.ErrorList {
		return validateDeviceStatus(d, has, at)
	})...)
	isNew := func(r resourcev1.ResourceClaimConsumerReference) bool {
		return !slices.Contains(old.Status.ReservedFor, r)
	}
	switch {
	case len(s.ReservedFor) > 0 && s.Allocation == nil:
		errs = append(errs, field.Forbidden(at.Child("reservedFor"), "may not be specified when `allocated` is not set"))
	case c.DeletionTimestamp != nil && slices.ContainsFunc(s.ReservedFor, isNew):
		errs = append(errs, field.Forbidden(at.Child("reservedFor"), "new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set"))
	}
	switch {
	case s.Allocation == nil:
		return errs
	case old.Status.Allocation != nil:
		return append(errs, check.Unchanged(s.Allocation, old.Status.Allocation, at.Child("allocation"))...)
	}
	return append(errs, validateAllocation(s.Allocation, namesOf(&c.Spec.Devices), at.Child("allocation"))...)
}

func validateConsumer(r *resourcev1.ResourceClaimConsumerReference, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	for _, f := range []struct{ name, value string }{{"resource", r.Resource}, {"name", r.Name}, {"uid", string(r.UID)}} {
		if f.value == "" {
			errs = append(errs, field.Required(at.Child(f.name), ""))
		}
	}
	return errs
}

func validateAllocation(a *resourcev1.AllocationResult, names requestNames, at *field.Path) field.ErrorList {
	devices := at.Child("devices")
	errs := each(a.Devices.Results, resourcev1.AllocationResultsMaxSize, devices.Child("results"), func(r *resourcev1.DeviceRequestAllocationResult, at *field.Path) field.ErrorList {
		return validateResult(r, names, at)
	})
	// Every configuration is one of the claim or one of a class.
	errs = append(errs, each(a.Devices.Config, 2*resourcev1.DeviceConfigMaxSize, devices.Child("config"), func(c *resourcev1.DeviceAllocationConfiguration, at *field.Path) field.ErrorList {
		errs := check.OneOf(c.Source, at.Child("source"), resourcev1.AllocationConfigSourceClaim, resourcev1.AllocationConfigSourceClass)
		errs = append(errs, names.validateList(c.Requests, at.Child("requests"))...)
		return append(errs, validateConfiguration(&c.DeviceConfiguration, at, false)...)
	})...)
	if a.NodeSelector != nil {
		errs = append(errs, podspec.ValidateNodeSelector(a.NodeSelector, nil, at.Child("nodeSelector"))...)
	}
	return errs
}

func validateResult(r *resourcev1.DeviceRequestAllocationResult, names requestNames, at *field.Path) field.ErrorList {
	errs := names.validate(r.Request, at.Child("request"))
	errs = append(errs, core.ValidateDriverName(r.Driver, at.Child("driver"))...)
	errs = append(errs, validatePoolName(r.Pool, at.Child("pool"))...)
	errs = append(errs, check.Label(r.Device, at.Child("device"))...)
	errs = append(errs, validateBinding(r.BindingConditions, r.BindingFailureConditions, at)...)
	if r.ShareID != nil {
		errs = append(errs, validateUID(string(*r.ShareID), at.Child("shareID"))...)
	}
	return errs
}

// validateBinding checks the conditions that decide whether a pod with a device
// is bound to its node.
func validateBinding(ready, failed []string, at *field.Path) field.ErrorList {
	readyAt, failedAt := at.Child("bindingConditions"), at.Child("bindingFailureConditions")
	name := func(s *string, at *field.Path) field.ErrorList { return metav1validation.ValidateLabelName(*s, at) }
	errs := each(ready, resourcev1.BindingConditionsMaxSize, readyAt, name)
	errs = append(errs, each(failed, resourcev1.BindingFailureConditionsMaxSize, failedAt, name)...)
	for i, condition := range ready {
		if slices.Contains(ready[:i], condition) {
			errs = append(errs, field.Duplicate(readyAt.Index(i), condition))
		}
	}
	for i, condition := range failed {
		if slices.Contains(failed[:i], condition) {
			errs = append(errs, field.Duplicate(failedAt.Index(i), condition))
		}
		if slices.Contains(ready, condition) {
			errs = append(errs, field.Invalid(failedAt.Index(i), condition, "bindingFailureConditions must not overlap with bindingConditions"))
		}
	}
	if len(ready) == 0 && len(failed) > 0 {
		errs = append(errs, field.Invalid(readyAt, ready, "bindingConditions are required to use bindingFailureConditions"))
	}
	if len(failed) == 0 && len(ready) > 0 {
		errs = append(errs, field.Invalid(failedAt, failed, "bindingFailureConditions are required to use bindingConditions"))
	}
	return errs
}

func validateUID(uid string, at *field.Path) field.ErrorList {
	if err := uuid.Validate(uid); err != nil {
		return field.ErrorList{field.Invalid(at, uid, fmt.Sprintf("error validating uid: %v", err))}
	}
	const length = 36
	if len(uid) != length || uid != strings.ToLower(uid) {
		return field.ErrorList{field.Invalid(at, uid, "uid must be in RFC 4122 normalized form, `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx` with lowercase hexadecimal characters")}
	}
	return nil
}

func validateDeviceStatus(d *resourcev1.AllocatedDeviceStatus, has sets.Set[schedulerapi.SharedDeviceID], at *field.Path) field.ErrorList {
	errs := core.ValidateDriverName(d.Driver, at.Child("driver"))
	errs = append(errs, validatePoolName(d.Pool, at.Child("pool"))...)
	errs = append(errs, check.Label(d.Device, at.Child("device"))...)
	if d.ShareID != nil {
		errs = append(errs, validateUID(*d.ShareID, at.Child("shareID"))...)
	}
	if id := statusID(d); !has.Has(id) {
		errs = append(errs, field.Invalid(at, id, "must be an allocated device in the claim"))
	}
	conditions := at.Child("conditions")
	if len(d.Conditions) > resourcev1.AllocatedDeviceStatusMaxConditions {
		errs = append(errs, field.TooMany(conditions, len(d.Conditions), resourcev1.AllocatedDeviceStatusMaxConditions))
	}
	errs = append(errs, metav1validation.ValidateConditions(d.Conditions, conditions)...)
	if d.Data != nil && len(d.Data.Raw) > 0 {
		errs = append(errs, validateObject(*d.Data, resourcev1.AllocatedDeviceStatusDataMaxLength, at.Child("data"))...)
	}
	if d.NetworkData != nil {
		errs = append(errs, validateNetwork(d.NetworkData, at.Child("networkData"))...)
	}
	return errs
}

func validateNetwork(n *resourcev1.NetworkDeviceData, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	for _, f := range []struct {
		name, value string
		most        int
	}{
		{"interfaceName", n.InterfaceName, resourcev1.NetworkDeviceDataInterfaceNameMaxLength},
		{"hardwareAddress", n.HardwareAddress, resourcev1.NetworkDeviceDataHardwareAddressMaxLength},
	} {
		if len(f.value) > f.most {
			errs = append(errs, field.TooLong(at.Child(f.name), "", f.most))
		}
	}
	return append(errs, eachOnce(n.IPs, resourcev1.NetworkDeviceDataMaxIPs, at.Child("ips"), func(ip *string) string { return *ip }, func(ip *string, at *field.Path) field.ErrorList {
		return validation.IsValidInterfaceAddress(at, *ip)
	})...)
}
