package authentication

import (
	"context"
	"fmt"
	"slices"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/skiff-k8s/skiff/apiserver/authn"
	"github.com/skiff-k8s/skiff/apiserver/resource"
)

// Issuer signs service account tokens; an *authn.Tokens.
type Issuer interface {
	Issue(b authn.Binding, audiences []string, now time.Time, lifetime, warnAfter time.Duration) (string, error)
	Audiences() []string
}

const (
	minTokenSeconds     = 10 * 60
	maxTokenSeconds     = 1 << 32
	defaultTokenSeconds = 60 * 60

	// Tokens of authn.ProjectedTokenSeconds for a pod's use of this API work for
	// a year, so that programs that read theirs only once go on working; they
	// carry the time after which it should have been read again (KEP-1205).
	extendedTokenSeconds = 365 * 24 * 60 * 60
)

var tokenRequestKind = authenticationv1.SchemeGroupVersion.WithKind("TokenRequest")

// Token is the subresource of service accounts that makes tokens.
func Token(issuer Issuer) resource.Subresource[corev1.ServiceAccount] {
	return resource.Subresource[corev1.ServiceAccount]{
		Name:    "token",
		Kind:    tokenRequestKind,
		NewBody: func() runtime.Object { return new(authenticationv1.TokenRequest) },
		Create: func(ctx context.Context, c resource.Call, body runtime.Object) (runtime.Object, error) {
			return issue(ctx, c, issuer, body.(*authenticationv1.TokenRequest))
		},
	}
}

func issue(ctx context.Context, c resource.Call, issuer Issuer, req *authenticationv1.TokenRequest) (*authenticationv1.TokenRequest, error) {
	if err := checkIdentity(c, req); err != nil {
		return nil, err
	}
	obj, err := c.Cluster.Get(ctx, c.Resource, c.Namespace, c.Name)
	if err != nil {
		return nil, err
	}
	account := obj.(*corev1.ServiceAccount)
	if req.UID != "" && req.UID != account.UID {
		return nil, apierrors.NewConflict(schema.GroupResource{Group: tokenRequestKind.Group, Resource: tokenRequestKind.Kind}, c.Name,
			fmt.Errorf("the UID in the token request (%s) does not match the UID of the service account (%s)", req.UID, account.UID))
	}
	now := time.Now()
	fill(req, account, issuer.Audiences(), now)
	if errs := validate(req); len(errs) > 0 {
		return nil, apierrors.NewInvalid(tokenRequestKind.GroupKind(), "", errs)
	}
	binding, err := bind(ctx, c, account, req.Spec.BoundObjectRef)
	if err != nil {
		return nil, err
	}

	lifetime := time.Duration(*req.Spec.ExpirationSeconds) * time.Second
	req.Status.ExpirationTimestamp = metav1.NewTime(now.Add(lifetime))
	warnAfter := time.Duration(0)
	if extended(req, binding, issuer.Audiences()) {
		lifetime, warnAfter = extendedTokenSeconds*time.Second, lifetime
	}
	if req.Status.Token, err = issuer.Issue(binding, req.Spec.Audiences, now, lifetime, warnAfter); err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	return req, nil
}

// checkIdentity compares the metadata of the body, where given, with the URL.
func checkIdentity(c resource.Call, req *authenticationv1.TokenRequest) error {
	meta := field.NewPath("metadata")
	if req.Name != "" && req.Name != c.Name {
		return apierrors.NewInvalid(tokenRequestKind.GroupKind(), c.Name, field.ErrorList{
			field.Invalid(meta.Child("name"), req.Name, "must match the service account name if specified")})
	}
	if req.Namespace != "" && req.Namespace != c.Namespace {
		return apierrors.NewInvalid(tokenRequestKind.GroupKind(), c.Name, field.ErrorList{
			field.Invalid(meta.Child("namespace"), req.Namespace, "must match the service account namespace if specified")})
	}
	return nil
}

// fill completes what the client left out.
func fill(req *authenticationv1.TokenRequest, account *corev1.ServiceAccount, audiences []string, now time.Time) {
	req.Name, req.Namespace, req.UID = account.Name, account.Namespace, account.UID
	req.CreationTimestamp = metav1.NewTime(now)
	req.Status = authenticationv1.TokenRequestStatus{}
	if len(req.Spec.Audiences) == 0 {
		req.Spec.Audiences = slices.Clone(audiences)
	}
	if req.Spec.ExpirationSeconds == nil {
		seconds := int64(defaultTokenSeconds)
		req.Spec.ExpirationSeconds = &seconds
	}
}

func validate(req *authenticationv1.TokenRequest) field.ErrorList {
	path, seconds := field.NewPath("spec", "expirationSeconds"), *req.Spec.ExpirationSeconds
	switch {
	case seconds < minTokenSeconds:
		return field.ErrorList{field.Invalid(path, seconds, "may not specify a duration less than 10 minutes")}
	case seconds > maxTokenSeconds:
		return field.ErrorList{field.Invalid(path, seconds, "may not specify a duration larger than 2^32 seconds")}
	}
	return nil
}

// extended reports whether a request is one the kubelet makes for a pod's own
// use of this API.
func extended(req *authenticationv1.TokenRequest, b authn.Binding, audiences []string) bool {
	foreign := func(audience string) bool { return !slices.Contains(audiences, audience) }
	return b.Pod != nil && *req.Spec.ExpirationSeconds == authn.ProjectedTokenSeconds && !slices.ContainsFunc(req.Spec.Audiences, foreign)
}

// bind looks up the object a token is to be bound to.
func bind(ctx context.Context, c resource.Call, account *corev1.ServiceAccount, ref *authenticationv1.BoundObjectReference) (authn.Binding, error) {
	b := authn.Binding{Namespace: c.Namespace, ServiceAccount: reference(account)}
	if ref == nil {
		return b, nil
	}
	gvk := schema.FromAPIVersionAndKind(ref.APIVersion, ref.Kind)
	plural, known := map[string]string{"Pod": "pods", "Secret": "secrets", "Node": "nodes"}[gvk.Kind]
	if !known || gvk.Group != "" {
		return b, apierrors.NewBadRequest(fmt.Sprintf("cannot bind token to object of type %s", gvk.String()))
	}
	kind := c.Cluster.Resource("", plural)
	namespace := c.Namespace
	if kind.ClusterScoped {
		namespace = ""
	}
	obj, err := c.Cluster.Get(ctx, kind, namespace, ref.Name)
	if err != nil {
		return b, err
	}
	bound := reference(obj)
	switch o := obj.(type) {
	case *corev1.Pod:
		if o.Spec.ServiceAccountName != c.Name {
			return b, apierrors.NewBadRequest(fmt.Sprintf("cannot bind token for serviceaccount %q to pod running with different serviceaccount name.", c.Name))
		}
		b.Pod = &bound
		if b.Node, err = nodeOf(ctx, c.Cluster, o); err != nil {
			return b, err
		}
	case *corev1.Secret:
		b.Secret = &bound
	case *corev1.Node:
		b.Node = &bound
	}
	if ref.UID != "" && string(ref.UID) != bound.UID {
		return b, apierrors.NewConflict(schema.GroupResource{Group: gvk.Group, Resource: gvk.Kind}, ref.Name,
			fmt.Errorf("the UID in the bound object reference (%s) does not match the UID in record. The object might have been deleted and then recreated", ref.UID))
	}
	return b, nil
}

// nodeOf names the node of a pod, for the information of who reads the token.
// The node need not exist.
func nodeOf(ctx context.Context, cluster resource.Cluster, pod *corev1.Pod) (*authn.Reference, error) {
	name := pod.Spec.NodeName
	if name == "" {
		return nil, nil
	}
	node, err := cluster.Get(ctx, cluster.Resource("", "nodes"), "", name)
	if apierrors.IsNotFound(err) {
		return &authn.Reference{Name: name}, nil
	}
	if err != nil {
		return nil, apierrors.NewInternalError(fmt.Errorf("read node of pod %s/%s: %w", pod.Namespace, pod.Name, err))
	}
	ref := reference(node)
	return &ref, nil
}

func reference(obj resource.Object) authn.Reference {
	return authn.Reference{Name: obj.GetName(), UID: string(obj.GetUID())}
}
