package admission

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/skiff-k8s/skiff/apiserver/resource"
	"github.com/skiff-k8s/skiff/quota"
)

// resourceQuota charges the quotas of a namespace with what is created in it.
// It runs last, so that nothing is charged that another plugin refuses. What
// is charged and then not stored, and what is deleted, a controller finds out
// by counting.
func resourceQuota(data []byte) (Plugin, error) {
	limits, err := readQuotaLimits(data)
	if err != nil {
		return Plugin{}, err
	}
	return Plugin{Name: "ResourceQuota", Validate: func(ctx context.Context, a *Attributes) error {
		if !costs(a) {
			return nil
		}
		quotas, err := list[*corev1.ResourceQuota](ctx, a.Cluster, "", "resourcequotas", a.Namespace)
		if err != nil || len(quotas) == 0 && len(limits) == 0 {
			return err
		}
		charges, err := limits.chargesOf(a, quotas, time.Now())
		if err != nil || a.DryRun {
			return err
		}
		return a.charge(ctx, charges)
	}}, nil
}

// costs reports whether a can raise what is used.
func costs(a *Attributes) bool {
	if a.Namespace == "" || a.Resource.ClusterScoped || a.Resource.Review != nil || a.Resource.Plural == "events" || a.New == nil {
		return false
	}
	switch o := a.New.(type) {
	case *corev1.Pod:
		old, _ := a.Old.(*corev1.Pod)
		return a.Subresource == "" && (a.Verb == create || a.Verb == update && quota.Terminating(o) != quota.Terminating(old)) ||
			a.Subresource == "resize" && a.Verb == update
	case *corev1.Service:
		return a.Subresource == "" && (a.Verb == create || a.Verb == update)
	case *resourcev1.ResourceClaim:
		return a.Subresource == "" && (a.Verb == create || a.Verb == update)
	case *corev1.PersistentVolumeClaim:
		return a.Subresource == "" && (a.Verb == create || a.Verb == update) || a.Subresource == "status" && a.Verb == update
	}
	return a.Subresource == "" && a.Verb == create
}

// charge is what an object adds to what is used of a quota.
type charge struct {
	quota string
	more  corev1.ResourceList
}

// chargesOf computes what a adds to each quota, and refuses what does not fit, or needs a quota that there is not.
func (l quotaLimits) chargesOf(a *Attributes, quotas []*corev1.ResourceQuota, now time.Time) ([]charge, error) {
	about, err := quotasAbout(a, quotas)
	if err != nil {
		return nil, err
	}
	kind := a.Resource.GR()
	used := quota.Usage(kind, a.New, now)
	growths := make([]corev1.ResourceList, len(about))
	grows := len(about) == 0 && len(quota.Growth(usedBefore(a, now), used)) > 0
	for i, q := range about {
		growths[i] = quota.Growth(before(a, q, now), used)
		grows = grows || len(growths[i]) > 0
	}
	if !grows {
		return nil, nil
	}
	if err := l.covered(a, used, quotas, about); err != nil {
		return nil, err
	}
	var charges []charge
	for i, q := range about {
		more := quota.Mask(growths[i], quota.Limited(q.Status.Hard, kind))
		if len(more) == 0 {
			continue
		}
		if err := fits(a, q, more); err != nil {
			return nil, err
		}
		charges = append(charges, charge{q.Name, more})
	}
	return charges, nil
}

// quotasAbout are those of quotas that are about a. It refuses pods that do not say what they use, and what cannot be charged yet.
func quotasAbout(a *Attributes, quotas []*corev1.ResourceQuota) (about []*corev1.ResourceQuota, err error) {
	kind := a.Resource.GR()
	for _, q := range quotas {
		if !quota.Matches(q, q.Status.Hard, kind, a.New) {
			continue
		}
		limited := quota.Limited(q.Status.Hard, kind)
		if pod, ok := a.New.(*corev1.Pod); ok {
			if err := quota.Unstated(pod, limited); err != nil {
				return nil, a.forbid("failed quota: %s: %w", q.Name, err)
			}
		}
		if slices.ContainsFunc(limited, func(name corev1.ResourceName) bool { _, known := q.Status.Used[name]; return !known }) {
			return nil, a.forbid("status unknown for quota: %s, resources: %s", q.Name, joinNames(limited))
		}
		about = append(about, q)
	}
	return about, nil
}

// before is what the object has been charged for already.
func before(a *Attributes, q *corev1.ResourceQuota, now time.Time) corev1.ResourceList {
	kind := a.Resource.GR()
	if a.Old == nil || !quota.Matches(q, q.Status.Hard, kind, a.Old) {
		return nil
	}
	return usedBefore(a, now)
}

// usedBefore is what the object has used, whether it was charged for or not.
func usedBefore(a *Attributes, now time.Time) corev1.ResourceList {
	if a.Old == nil {
		return nil
	}
	return quota.Usage(a.Resource.GR(), a.Old, now)
}

// fits refuses more than a quota allows. A status reports what is so already.
func fits(a *Attributes, q *corev1.ResourceQuota, more corev1.ResourceList) error {
	if a.Subresource == "status" {
		return nil
	}
	total := quota.Mask(quota.Add(q.Status.Used, more), quota.Limited(more, a.Resource.GR()))
	names := quota.Exceeded(total, q.Status.Hard)
	if len(names) == 0 {
		return nil
	}
	return a.forbid("exceeded quota: %s, requested: %s, used: %s, limited: %s",
		q.Name, show(more, names), show(q.Status.Used, names), show(q.Status.Hard, names))
}

// charge books all charges, or none if one no longer fits.
func (a *Attributes) charge(ctx context.Context, charges []charge) error {
	for i, c := range charges {
		err := a.book(ctx, c, func(q *corev1.ResourceQuota) error {
			if err := fits(a, q, c.more); err != nil {
				return err
			}
			q.Status.Used = quota.Add(q.Status.Used, c.more)
			return nil
		})
		if err == nil {
			continue
		}
		if unpaid := a.refund(context.WithoutCancel(ctx), charges[:i]); unpaid != nil {
			return errors.Join(err, unpaid)
		}
		return err
	}
	return nil
}

func (a *Attributes) refund(ctx context.Context, charges []charge) error {
	var errs []error
	for _, c := range charges {
		errs = append(errs, a.book(ctx, c, func(q *corev1.ResourceQuota) error {
			for name, more := range c.more {
				used := q.Status.Used[name]
				used.Sub(more)
				q.Status.Used[name] = used
			}
			return nil
		}))
	}
	return errors.Join(errs...)
}

// book changes a quota; one that is gone needs no booking.
func (a *Attributes) book(ctx context.Context, c charge, change func(*corev1.ResourceQuota) error) error {
	_, err := a.Cluster.Update(ctx, a.Cluster.Resource("", "resourcequotas"), a.Namespace, c.quota, false, func(obj resource.Object) error {
		return change(obj.(*corev1.ResourceQuota))
	})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

func show(list corev1.ResourceList, names []corev1.ResourceName) string {
	var parts []string
	for _, name := range names {
		quantity := list[name]
		parts = append(parts, fmt.Sprintf("%s=%s", name, quantity.String()))
	}
	return strings.Join(parts, ",")
}

func joinNames(names []corev1.ResourceName) string {
	var parts []string
	for _, name := range names {
		parts = append(parts, string(name))
	}
	return strings.Join(parts, ",")
}
