package rest

import (
	"fmt"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/api/validation/path"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/skiff-k8s/skiff/apiserver/resource"
)

// own takes from a new object what only the server sets.
func own(obj resource.Object) {
	obj.SetCreationTimestamp(metav1.Time{})
	obj.SetUID("")
	obj.SetDeletionTimestamp(nil)
	obj.SetDeletionGracePeriodSeconds(nil)
	obj.SetSelfLink("")
}

// place gives obj the namespace of the request; it may not name another.
func place(obj metav1.Object, requested string) error {
	switch namespace := obj.GetNamespace(); {
	case namespace == requested:
		return nil
	case namespace == "" || requested == "":
		obj.SetNamespace(requested)
		return nil
	}
	return apierrors.NewBadRequest("the namespace of the provided object does not match the namespace sent on the request")
}

// named checks that obj is the one of the URL.
func named(obj metav1.Object, name string) error {
	switch obj.GetName() {
	case name:
		return nil
	case "":
		return apierrors.NewBadRequest(fmt.Sprintf("the name of the object (%s based on URL) was undeterminable: name must be provided", name))
	}
	return apierrors.NewBadRequest(fmt.Sprintf("the name of the object (%s) does not match the name on the URL (%s)", obj.GetName(), name))
}

// fill sets what the server gives a new object.
func fill(obj resource.Object, now time.Time) {
	obj.SetCreationTimestamp(metav1.NewTime(now.Truncate(time.Second)))
	obj.SetUID(uuid.NewUUID())
	if prefix := obj.GetGenerateName(); prefix != "" && obj.GetName() == "" {
		obj.SetName(generateName(prefix))
	}
}

// generateName appends five random characters; the result fits a DNS label.
func generateName(prefix string) string {
	const suffix, most = 5, 63
	return prefix[:min(len(prefix), most-suffix)] + rand.String(suffix)
}

// carry takes over from old what no update changes.
func carry(obj, old resource.Object) {
	if obj.GetUID() == "" {
		obj.SetUID(old.GetUID())
	}
	if created := old.GetCreationTimestamp(); !created.IsZero() {
		obj.SetCreationTimestamp(created)
	}
	if !old.GetDeletionTimestamp().IsZero() {
		obj.SetDeletionTimestamp(old.GetDeletionTimestamp())
	}
	if old.GetDeletionGracePeriodSeconds() != nil && obj.GetDeletionGracePeriodSeconds() == nil {
		obj.SetDeletionGracePeriodSeconds(old.GetDeletionGracePeriodSeconds())
	}
}

var metadata = field.NewPath("metadata")

// validateMeta lists what is wrong with the metadata of obj; old is nil on
// create. The name of what exists is not judged again: rules change.
func validateMeta(r *resource.Resource, obj, old resource.Object) field.ErrorList {
	var errs field.ErrorList
	switch {
	case old != nil:
		errs = append(validateSegment(r, obj), validation.ValidateObjectMetaAccessorUpdate(obj, old, metadata)...)
	case r.Meta != resource.MetaLax:
		errs = validation.ValidateObjectMetaAccessor(obj, r.Namespaced(), r.Name, metadata)
	}
	if r.Meta == resource.MetaStrict && r.Custom == nil {
		errs = append(errs, validateFinalizers(obj)...)
	}
	return errs
}

// validateSegment is what the metadata of any kind must be like: the name can
// stand in a path.
func validateSegment(r *resource.Resource, obj resource.Object) field.ErrorList {
	return validation.ValidateObjectMetaAccessor(obj, r.Namespaced(), path.ValidatePathSegmentName, metadata)
}

// validateFinalizers reserves names without a domain for Kubernetes itself.
func validateFinalizers(obj resource.Object) field.ErrorList {
	var errs field.ErrorList
	for i, f := range obj.GetFinalizers() {
		switch f {
		case "kubernetes", metav1.FinalizerOrphanDependents, metav1.FinalizerDeleteDependents:
			continue
		}
		if !strings.Contains(f, "/") {
			errs = append(errs, field.Invalid(metadata.Child("finalizers").Index(i), f, "name is neither a standard finalizer name nor is it fully qualified"))
		}
	}
	return errs
}

// dedupeOwners drops owner references that are there twice and warns of it.
func dedupeOwners(obj resource.Object, afterMutation bool, warn func(string)) {
	refs := obj.GetOwnerReferences()
	if len(refs) < 2 {
		return
	}
	var kept []metav1.OwnerReference
	var twice []string
	for _, ref := range refs {
		if containsOwner(kept, ref) {
			twice = append(twice, string(ref.UID))
			continue
		}
		kept = append(kept, ref)
	}
	if len(twice) == 0 {
		return
	}
	when := ""
	if afterMutation {
		when = " after mutating admission happens"
	}
	warn(fmt.Sprintf(".metadata.ownerReferences contains duplicate entries%s; API server dedups owner references in 1.20+, "+
		"and may reject such requests as early as 1.24; please fix your requests; duplicate UID(s) observed: %s", when, strings.Join(twice, ", ")))
	obj.SetOwnerReferences(kept)
}

func containsOwner(refs []metav1.OwnerReference, ref metav1.OwnerReference) bool {
	for _, other := range refs {
		if other.UID == ref.UID && equality.Semantic.DeepEqual(other, ref) {
			return true
		}
	}
	return false
}
