package admission

import (
	"context"
	"fmt"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/apiserver/resource"
)

// ownerRights lets those name an owner who may delete the object, since an owner that is not there has it deleted; and those have an owner
// wait for the object who may set the owner's finalizers.
func ownerRights(rights authorizer.Authorizer, served func() []*resource.Resource) Plugin {
	return Plugin{Name: "OwnerReferencesPermissionEnforcement", Validate: func(ctx context.Context, a *Attributes) error {
		if a.isSub("", "pods", "status") || a.Verb != create && a.Verb != update { // the status of a pod leaves its owners alone
			return nil
		}
		refs, old, changed := ownersOf(a.New, a.Old)
		if !changed {
			return nil
		}
		if a.Verb != create {
			r := a.Served()
			asked := authorizer.AttributesRecord{User: a.User, Verb: remove, Namespace: a.Namespace, APIGroup: r.Group, APIVersion: r.Version, Resource: r.Plural,
				Subresource: a.Subresource, Name: a.RequestName(), ResourceRequest: true}
			if decision, reason, err := rights.Authorize(ctx, asked); decision != authorizer.DecisionAllow {
				return a.forbid("cannot set an ownerRef on a resource you can't delete: %v, %v", reason, err)
			}
		}
		blocking := newlyBlocking(refs, old)
		if len(blocking) == 0 || mayFinalize(ctx, rights, authorizer.AttributesRecord{User: a.User, APIGroup: "*", APIVersion: "*", Resource: "*", Name: "*"}) == "" {
			return nil
		}
		for _, ref := range blocking {
			if err := blocks(ctx, a, rights, served(), ref); err != nil {
				return err
			}
		}
		return nil
	}}
}

// ownersOf are the owners that an object has and had.
func ownersOf(now, before runtime.Object) (refs, old []metav1.OwnerReference, changed bool) {
	obj, err := meta.Accessor(now)
	if err != nil {
		return nil, nil, false
	}
	refs = obj.GetOwnerReferences()
	if before != nil {
		was, err := meta.Accessor(before)
		if err != nil {
			return nil, nil, false
		}
		old = was.GetOwnerReferences()
	}
	return refs, old, len(refs) != len(old) || len(refs) > 0 && !equality.Semantic.DeepEqual(refs, old)
}

// newlyBlocking are the owners that wait for the object and did not before.
func newlyBlocking(refs, old []metav1.OwnerReference) []metav1.OwnerReference {
	waited := make(map[types.UID]bool)
	for _, ref := range old {
		waited[ref.UID] = ptr.Deref(ref.BlockOwnerDeletion, false)
	}
	var blocking []metav1.OwnerReference
	for _, ref := range refs {
		if ptr.Deref(ref.BlockOwnerDeletion, false) && !waited[ref.UID] {
			blocking = append(blocking, ref)
		}
	}
	return blocking
}

// blocks is the refusal to have an owner wait, or nil.
func blocks(ctx context.Context, a *Attributes, rights authorizer.Authorizer, served []*resource.Resource, ref metav1.OwnerReference) error {
	gv, err := schema.ParseGroupVersion(ref.APIVersion)
	if err != nil {
		return a.forbid("cannot set blockOwnerDeletion in this case because cannot find RESTMapping for APIVersion %s Kind %s: %v", ref.APIVersion, ref.Kind, err)
	}
	found := false
	for _, r := range served {
		if r.GVK() != gv.WithKind(ref.Kind) {
			continue
		}
		found = true
		asked := authorizer.AttributesRecord{User: a.User, APIGroup: r.Group, APIVersion: r.Version, Resource: r.Plural, Name: ref.Name}
		if r.Namespaced() {
			asked.Namespace = a.Namespace
		}
		if why := mayFinalize(ctx, rights, asked); why != "" {
			return a.forbid("cannot set blockOwnerDeletion if an ownerReference refers to a resource you can't set finalizers on: %s", why)
		}
	}
	if !found {
		return a.forbid("cannot set blockOwnerDeletion in this case because cannot find RESTMapping for APIVersion %s Kind %s: %v", ref.APIVersion, ref.Kind,
			&meta.NoKindMatchError{GroupKind: schema.GroupKind{Group: gv.Group, Kind: ref.Kind}, SearchedVersions: []string{gv.Version}})
	}
	return nil
}

// mayFinalize says why a user may not set finalizers, nothing if the user may.
func mayFinalize(ctx context.Context, rights authorizer.Authorizer, asked authorizer.AttributesRecord) string {
	asked.Verb, asked.Subresource, asked.ResourceRequest = update, "finalizers", true
	decision, reason, err := rights.Authorize(ctx, asked)
	if decision == authorizer.DecisionAllow {
		return ""
	}
	return fmt.Sprintf("%v, %v", reason, err)
}
