package devices

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/apiserver/request"
	"github.com/skiff-k8s/skiff/apiserver/resource"
)

// permitClaim keeps access for administrators, which passes over who has a
// device already, to namespaces that are labelled for it. The spec is immutable,
// so it matters on create only.
func permitClaim(ctx context.Context, cluster resource.Cluster, c, old *claim) field.ErrorList {
	if old != nil {
		return nil
	}
	return permitAdmin(ctx, cluster, c.Namespace, adminRequest(c.Spec.Devices.Requests))
}

func permitTemplate(ctx context.Context, cluster resource.Cluster, t, old *template) field.ErrorList {
	if old != nil {
		return nil
	}
	return permitAdmin(ctx, cluster, t.Namespace, adminRequest(t.Spec.Spec.Devices.Requests))
}

// adminRequest is the path of the first request for access as an administrator.
// It is that of a claim, and lacks a part of it, as upstream's does.
func adminRequest(requests []resourcev1.DeviceRequest) *field.Path {
	for i, r := range requests {
		if r.Exactly != nil && ptr.Deref(r.Exactly.AdminAccess, false) {
			return field.NewPath("spec", "devices", "requests").Index(i).Child("adminAccess")
		}
	}
	return nil
}

func adminResult(c *claim) *field.Path {
	if c.Status.Allocation == nil {
		return nil
	}
	for i, r := range c.Status.Allocation.Devices.Results {
		if ptr.Deref(r.AdminAccess, false) {
			return field.NewPath("status", "allocation", "devices", "results").Index(i).Child("adminAccess")
		}
	}
	return nil
}

// permitAdmin checks the label of a namespace if there is anything at a path.
func permitAdmin(ctx context.Context, cluster resource.Cluster, namespace string, at *field.Path) field.ErrorList {
	if at == nil {
		return nil
	}
	obj, err := cluster.Get(ctx, cluster.Resource("", "namespaces"), "", namespace)
	if err != nil {
		return field.ErrorList{field.InternalError(at, fmt.Errorf("could not retrieve namespace to verify admin access: %w", err))}
	}
	if obj.(*corev1.Namespace).Labels[resourcev1.DRAAdminNamespaceLabelKey] == "true" {
		return nil
	}
	return field.ErrorList{field.Forbidden(at, fmt.Sprintf("admin access to devices requires the `%s: true` label on the containing namespace", resourcev1.DRAAdminNamespaceLabelKey))}
}

// permitStatus divides the status of claims between who allocates devices and
// the drivers that tell of them. Each needs a right of its own besides that to
// the status: to resourceclaims/binding, or to resourceclaims/driver by the name
// of the driver.
func permitStatus(z authorizer.Authorizer) func(context.Context, resource.Cluster, *claim, *claim) field.ErrorList {
	return func(ctx context.Context, cluster resource.Cluster, c, old *claim) field.ErrorList {
		var errs field.ErrorList
		if adminResult(old) == nil {
			errs = permitAdmin(ctx, cluster, c.Namespace, adminResult(c))
		}
		info := request.From(ctx)
		if z == nil || info == nil { // nobody asks: it is the server itself
			return errs
		}
		a := authorizer.AttributesRecord{
			User: request.User(ctx), Verb: info.Verb, Path: info.Path, ResourceRequest: true, Name: info.Name,
			APIGroup: info.Group, APIVersion: info.Version, Namespace: info.Namespace, Resource: info.Resource,
		}
		errs = append(errs, permitBinding(ctx, z, a, c, old)...)
		if c.Status.Allocation != nil {
			errs = append(errs, permitDrivers(ctx, z, a, c, old)...)
		}
		return errs
	}
}

func permitBinding(ctx context.Context, z authorizer.Authorizer, a authorizer.AttributesRecord, c, old *claim) field.ErrorList {
	if equality.Semantic.DeepEqual(c.Status.Allocation, old.Status.Allocation) && equality.Semantic.DeepEqual(c.Status.ReservedFor, old.Status.ReservedFor) {
		return nil
	}
	a.Subresource, a.Namespace, a.Name = resourcev1.SubresourceBinding, "", ""
	err := allow(ctx, z, a)
	if err == nil {
		return nil
	}
	return field.ErrorList{field.Forbidden(field.NewPath("status", "allocation"),
		fmt.Sprintf(`changing status.allocation or status.reservedFor requires resource="resourceclaims/binding", verb="%s" permission: %s`, a.Verb, err))}
}

func permitDrivers(ctx context.Context, z authorizer.Authorizer, a authorizer.AttributesRecord, c, old *claim) field.ErrorList {
	verbs := []string{resourcev1.VerbPrefixArbitraryNode + a.Verb}
	if onNode(a.User, c.Status.Allocation.NodeSelector) {
		verbs = append([]string{resourcev1.VerbPrefixAssociatedNode + a.Verb}, verbs...)
	}
	a.Subresource = resourcev1.SubresourceDriver
	var errs field.ErrorList
	for _, driver := range sets.List(changedDrivers(c.Status.Devices, old.Status.Devices)) {
		a.Name = driver
		var first error
		for _, a.Verb = range verbs {
			err := allow(ctx, z, a)
			if err == nil {
				first = nil
				break
			}
			if first == nil {
				first = err
			}
		}
		if first != nil {
			errs = append(errs, field.Forbidden(field.NewPath("status", "devices"),
				fmt.Sprintf(`changing status.devices requires resource="resourceclaims/driver", verb="%s" permission: %s`, verbs, first)))
		}
	}
	return errs
}

// allow is the reason why a is refused, or nil.
func allow(ctx context.Context, z authorizer.Authorizer, a authorizer.AttributesRecord) error {
	decision, reason, err := z.Authorize(ctx, a)
	switch {
	case decision == authorizer.DecisionAllow:
		return nil
	case err != nil && reason != "":
		reason = fmt.Sprintf("%v: %s", err, reason)
	case err != nil:
		reason = err.Error()
	}
	return request.Forbidden(a, reason)
}

// changedDrivers are those of devices of which something else is told than
// before.
func changedDrivers(now, before []resourcev1.AllocatedDeviceStatus) sets.Set[string] {
	type key struct{ driver, pool, device, share string }
	keyOf := func(d *resourcev1.AllocatedDeviceStatus) key {
		return key{d.Driver, d.Pool, d.Device, ptr.Deref(d.ShareID, "")}
	}
	was := make(map[key]*resourcev1.AllocatedDeviceStatus, len(before))
	for i := range before {
		was[keyOf(&before[i])] = &before[i]
	}
	drivers := sets.New[string]()
	for i := range now {
		d := &now[i]
		if old := was[keyOf(d)]; old == nil || !equality.Semantic.DeepEqual(*old, *d) {
			drivers.Insert(d.Driver)
		}
		delete(was, keyOf(d))
	}
	for gone := range was {
		drivers.Insert(gone.driver)
	}
	return drivers
}

// onNode reports whether u is a service account whose token is bound to the one
// node on which the devices are.
func onNode(u user.Info, s *corev1.NodeSelector) bool {
	if s == nil || len(s.NodeSelectorTerms) != 1 {
		return false
	}
	term := s.NodeSelectorTerms[0]
	if len(term.MatchExpressions) != 0 || len(term.MatchFields) != 1 {
		return false
	}
	f := term.MatchFields[0]
	if f.Key != "metadata.name" || f.Operator != corev1.NodeSelectorOpIn || len(f.Values) != 1 {
		return false
	}
	if _, _, err := serviceaccount.SplitUsername(u.GetName()); err != nil {
		return false
	}
	nodes := u.GetExtra()[serviceaccount.NodeNameKey]
	return len(nodes) == 1 && nodes[0] == f.Values[0] && len(validation.NameIsDNSSubdomain(nodes[0], false)) == 0
}
