package alloc

import (
	"context"
	"errors"
	"net/netip"

	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skiff-k8s/skiff/apiserver/resource"
	"github.com/skiff-k8s/skiff/family"
)

// manager marks the IPAddress objects made here, as on other clusters.
const manager = "ipallocator.k8s.io"

// addressClaims are the IPAddress objects, of both families.
type addressClaims struct{ services *Services }

func (c *addressClaims) resource() (*resource.Resource, error) {
	r := c.services.cluster.Resource("networking.k8s.io", "ipaddresses")
	if r == nil {
		return nil, errors.New("ipaddresses.networking.k8s.io is not served")
	}
	return r, nil
}

func (c *addressClaims) Take(ctx context.Context, value netip.Addr, owner Owner) error {
	r, err := c.resource()
	if err != nil {
		return err
	}
	_, err = c.services.cluster.Create(ctx, r, &networkingv1.IPAddress{
		ObjectMeta: metav1.ObjectMeta{
			Name: value.String(),
			Labels: map[string]string{
				networkingv1.LabelIPAddressFamily: string(family.Of(value)),
				networkingv1.LabelManagedBy:       manager,
			},
		},
		Spec: networkingv1.IPAddressSpec{ParentRef: &networkingv1.ParentReference{
			Resource: "services", Namespace: owner.Namespace, Name: owner.Name,
		}},
	})
	if apierrors.IsAlreadyExists(err) {
		return errTaken
	}
	return err
}

func (c *addressClaims) Free(ctx context.Context, value netip.Addr, owner Owner) error {
	r, err := c.resource()
	if err != nil {
		return err
	}
	name := value.String()
	obj, err := c.services.cluster.Get(ctx, r, "", name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	ip := obj.(*networkingv1.IPAddress)
	if ownerOf(ip) != owner {
		return nil
	}
	_, err = c.services.cluster.Delete(ctx, r, "", name, &metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &ip.UID}})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	return err
}

func (c *addressClaims) All(ctx context.Context) (map[netip.Addr]Owner, error) {
	r, err := c.resource()
	if err != nil {
		return nil, err
	}
	objs, err := c.services.cluster.List(ctx, r, "")
	if err != nil {
		return nil, err
	}
	all := make(map[netip.Addr]Owner, len(objs))
	for _, obj := range objs {
		if a, err := netip.ParseAddr(obj.GetName()); err == nil {
			all[a] = ownerOf(obj.(*networkingv1.IPAddress))
		}
	}
	return all, nil
}

// ownerOf is the Service an IPAddress was made for, zero if it is a user's.
func ownerOf(ip *networkingv1.IPAddress) Owner {
	ref := ip.Spec.ParentRef
	if ip.Labels[networkingv1.LabelManagedBy] != manager || ref == nil || ref.Group != "" || ref.Resource != "services" {
		return Owner{}
	}
	return Owner{ref.Namespace, ref.Name}
}
