package admission

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"maps"
	"slices"
	"strings"

	authenticationv1 "k8s.io/api/authentication/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/dynamic-resource-allocation/resourceclaim"
	kubeletapis "k8s.io/kubelet/pkg/apis"

	"github.com/skiff-k8s/skiff/apiserver/authz"
)

// nodeRestriction holds kubelets to their own Node, their own lease and the
// pods on their node. The node authorizer has let the request pass already;
// here the objects are known.
func nodeRestriction(rights Rights) Plugin {
	return Plugin{Name: "NodeRestriction", Mutate: func(ctx context.Context, a *Attributes) error {
		node, isNode := authz.NodeName(a.User)
		if !isNode {
			return nil
		}
		if node == "" {
			return a.forbid("could not determine node from user %q", a.User.GetName())
		}
		switch a.Resource.Group + "/" + a.Resource.Plural {
		case "/pods":
			return restrictPod(ctx, a, node)
		case "/nodes":
			return restrictNode(a, node)
		case "/persistentvolumeclaims":
			return restrictClaim(a, node)
		case "/serviceaccounts":
			return restrictToken(ctx, a, node, rights)
		case "coordination.k8s.io/leases":
			return restrictLease(a, node)
		case "storage.k8s.io/csinodes":
			if a.shownName() != node {
				return a.forbid("can only access CSINode with the same name as the requesting node")
			}
		case "resource.k8s.io/resourceslices":
			return restrictSlice(a, node)
		case "certificates.k8s.io/certificatesigningrequests":
			return restrictCertificate(a, node)
		}
		return nil
	}}
}

func restrictPod(ctx context.Context, a *Attributes, node string) error {
	switch {
	case a.Subresource == "" && a.Verb == create:
		return restrictMirrorPod(ctx, a, node)
	case a.Subresource == "" && a.Verb == remove:
		return ownPod(ctx, a, node, "node %q can only delete pods with spec.nodeName set to itself")
	case a.Subresource == "":
		return a.forbid("unexpected operation %q, node %q can only create and delete mirror pods", strings.ToUpper(a.Verb), node)
	case a.Subresource == "status" && a.Verb == update:
		old, pod := a.Old.(*corev1.Pod), a.New.(*corev1.Pod)
		switch {
		case old.Spec.NodeName != node:
			return a.forbid("node %q can only update pod status for pods with spec.nodeName set to itself", node)
		case !maps.Equal(old.Labels, pod.Labels):
			return a.forbid("node %q cannot update labels through pod status", node)
		case !resourceclaim.PodStatusEqual(old.Status.ResourceClaimStatuses, pod.Status.ResourceClaimStatuses):
			return a.forbid("node %q cannot update resource claim statues", node)
		case !resourceclaim.PodExtendedStatusEqual(old.Status.ExtendedResourceClaimStatus, pod.Status.ExtendedResourceClaimStatus):
			return a.forbid("node %q cannot update extended resource claim status", node)
		}
		return nil
	case a.Subresource == "eviction" && a.Verb == create:
		return ownPod(ctx, a, node, "node %s can only evict pods with spec.nodeName set to itself")
	}
	return a.forbid("unexpected pod subresource %q, only 'status' and 'eviction' are allowed", a.Subresource)
}

func ownPod(ctx context.Context, a *Attributes, node, refusal string) error {
	pod, err := get[*corev1.Pod](ctx, a.Cluster, "", "pods", a.Namespace, a.shownName())
	if err != nil {
		return err
	}
	if pod.Spec.NodeName != node {
		return a.forbid(refusal, node)
	}
	return nil
}

// restrictMirrorPod allows pods that stand for static pods of the node and
// give it no access to anything.
func restrictMirrorPod(ctx context.Context, a *Attributes, node string) error {
	pod := a.New.(*corev1.Pod)
	switch {
	case !isMirror(pod):
		return a.forbid("pod does not have %q annotation, node %q can only create mirror pods", corev1.MirrorPodAnnotationKey, node)
	case pod.Spec.NodeName != node:
		return a.forbid("node %q can only create pods with spec.nodeName set to itself", node)
	case len(pod.OwnerReferences) > 1:
		return a.forbid("node %q can only create pods with a single owner reference set to itself", node)
	case len(pod.OwnerReferences) == 0:
		return a.forbid("node %q can only create pods with an owner reference set to itself", node)
	}
	owner := pod.OwnerReferences[0]
	switch {
	case owner.APIVersion != "v1" || owner.Kind != "Node" || owner.Name != node:
		return a.forbid("node %q can only create pods with an owner reference set to itself", node)
	case owner.Controller == nil || !*owner.Controller:
		return a.forbid("node %q can only create pods with a controller owner reference set to itself", node)
	case owner.BlockOwnerDeletion != nil && *owner.BlockOwnerDeletion:
		return a.forbid("node %q must not set blockOwnerDeletion on an owner reference", node)
	}
	self, err := get[*corev1.Node](ctx, a.Cluster, "", "nodes", "", node)
	if err != nil {
		return err
	}
	if owner.UID != self.UID {
		return a.forbid("node %s UID mismatch: expected %s got %s", node, owner.UID, self.UID)
	}
	if what := referenced(pod); what != "" {
		return a.forbid("node %q can not create pods that reference %s", node, what)
	}
	return nil
}

// referenced names an API resource that pod makes use of, "" if there is none.
func referenced(pod *corev1.Pod) string {
	refs := authz.PodReferences(pod)
	switch {
	case pod.Spec.ServiceAccountName != "":
		return "serviceaccounts"
	case len(refs.Secrets) > 0:
		return "secrets"
	case len(refs.ConfigMaps) > 0:
		return "configmaps"
	case len(pod.Spec.ResourceClaims) > 0:
		return "resourceclaims"
	case len(refs.Claims) > 0:
		return "persistentvolumeclaims"
	}
	for _, v := range pod.Spec.Volumes {
		switch {
		case v.CSI != nil:
			return "csidrivers (via CSI volumes)"
		case v.Glusterfs != nil:
			return "endpoints (via glusterFS volumes)"
		case v.Projected == nil:
			continue
		}
		for _, s := range v.Projected.Sources {
			switch {
			case s.ServiceAccountToken != nil:
				return "serviceaccounts (via projected volumes)"
			case s.ClusterTrustBundle != nil:
				return "clustertrustbundles"
			case s.PodCertificate != nil:
				return "podcertificates"
			}
		}
	}
	return ""
}

func restrictNode(a *Attributes, node string) error {
	if name := a.shownName(); name != node {
		return a.forbid("node %q is not allowed to modify node %q", node, name)
	}
	obj, _ := a.New.(*corev1.Node)
	old, _ := a.Old.(*corev1.Node)
	switch {
	case obj == nil:
		return nil
	case a.Verb == create:
		if obj.Spec.ConfigSource != nil {
			return a.forbid("node %q is not allowed to create pods with a non-nil configSource", node)
		}
		if labels := forbiddenLabels(obj.Labels, nil); len(labels) > 0 {
			return a.forbid("node %q is not allowed to set the following labels: %s", node, strings.Join(labels, ", "))
		}
	case a.Verb == update:
		if obj.Spec.ConfigSource != nil && !equality.Semantic.DeepEqual(obj.Spec.ConfigSource, old.Spec.ConfigSource) {
			return a.forbid("node %q is not allowed to update configSource to a new non-nil configSource", node)
		}
		if !equality.Semantic.DeepEqual(obj.Spec.Taints, old.Spec.Taints) {
			return a.forbid("node %q is not allowed to modify taints", node)
		}
		if !equality.Semantic.DeepEqual(obj.OwnerReferences, old.OwnerReferences) {
			return a.forbid("node %q is not allowed to modify ownerReferences", node)
		}
		if labels := forbiddenLabels(obj.Labels, old.Labels); len(labels) > 0 {
			return a.forbid("is not allowed to modify labels: %s", strings.Join(labels, ", "))
		}
	}
	return nil
}

// forbiddenLabels are those that differ and that a node may not set on itself,
// because workloads are steered by them (KEP-279).
func forbiddenLabels(now, before map[string]string) []string {
	var list []string
	for key := range maps.Keys(union(now, before)) {
		value, set := now[key]
		old, was := before[key]
		if set == was && value == old {
			continue
		}
		domain, _, hasDomain := strings.Cut(key, "/")
		if !hasDomain {
			continue
		}
		if within(domain, corev1.LabelNamespaceNodeRestriction) ||
			(within(domain, "kubernetes.io") || within(domain, "k8s.io")) && !kubeletapis.IsKubeletLabel(key) {
			list = append(list, key)
		}
	}
	slices.Sort(list)
	return list
}

func union(a, b map[string]string) map[string]string {
	all := maps.Clone(a)
	if all == nil {
		all = make(map[string]string)
	}
	maps.Copy(all, b)
	return all
}

// within reports whether domain is parent or below it.
func within(domain, parent string) bool {
	return domain == parent || strings.HasSuffix(domain, "."+parent)
}

func restrictClaim(a *Attributes, node string) error {
	if a.Subresource != "status" {
		return a.forbid("may only update PVC status")
	}
	if a.Verb != update {
		return a.forbid("unexpected operation %q", strings.ToUpper(a.Verb))
	}
	old, claim := a.Old.(*corev1.PersistentVolumeClaim).DeepCopy(), a.New.(*corev1.PersistentVolumeClaim).DeepCopy()
	for _, c := range []*corev1.PersistentVolumeClaim{old, claim} {
		c.ResourceVersion, c.ManagedFields = "", nil
		c.Status.Capacity, c.Status.Conditions = nil, nil
		c.Status.AllocatedResources, c.Status.AllocatedResourceStatuses = nil, nil
	}
	if !equality.Semantic.DeepEqual(old, claim) {
		return a.forbid("node %q is not allowed to update fields other than status.quantity and status.conditions", node)
	}
	return nil
}

// restrictToken allows tokens that are bound to a pod on the node, for the
// audiences the pod asks for.
func restrictToken(ctx context.Context, a *Attributes, node string, rights Rights) error {
	request, ok := a.New.(*authenticationv1.TokenRequest)
	if !ok || a.Verb != create || a.Subresource != "token" {
		return nil
	}
	ref := request.Spec.BoundObjectRef
	switch {
	case ref == nil || ref.APIVersion != "v1" || ref.Kind != "Pod" || ref.Name == "":
		return a.forbid("node requested token not bound to a pod")
	case ref.UID == "":
		return a.forbid("node requested token with a pod binding without a uid")
	}
	pod, err := get[*corev1.Pod](ctx, a.Cluster, "", "pods", a.Namespace, ref.Name)
	switch {
	case err != nil:
		return err
	case ref.UID != pod.UID:
		return a.forbid("the UID in the bound object reference (%s) does not match the UID in record. The object might have been deleted and then recreated", ref.UID)
	case pod.Spec.NodeName != node:
		return a.forbid("node requested token bound to a pod scheduled on a different node")
	case len(request.Spec.Audiences) > 1:
		return a.forbid("node may only request 0 or 1 audiences")
	}
	audience := ""
	if len(request.Spec.Audiences) == 1 {
		audience = request.Spec.Audiences[0]
	}
	wants, err := wantsAudience(ctx, a.Cluster, pod, audience)
	switch {
	case err != nil:
		return a.forbid("error validating audience %q: %w", audience, err)
	case wants:
		return nil
	}
	// Administrators can allow more (KEP-4412).
	decision, _, err := rights.Authorize(ctx, authorizer.AttributesRecord{
		User: a.User, Verb: "request-serviceaccounts-token-audience", Namespace: a.Namespace,
		APIVersion: "v1", Resource: audience, Name: a.Name, ResourceRequest: true,
	})
	switch {
	case decision == authorizer.DecisionAllow:
		return nil
	case err != nil:
		return a.forbid("audience %q not found in pod spec volume, error authorizing %s to request tokens for this audience: %w", audience, a.User.GetName(), err)
	}
	return a.forbid("audience %q not found in pod spec volume, %s is not authorized to request tokens for this audience", audience, a.User.GetName())
}

func restrictLease(a *Attributes, node string) error {
	switch {
	case a.Namespace != corev1.NamespaceNodeLease:
		return a.forbid("can only access leases in the %q system namespace", corev1.NamespaceNodeLease)
	case a.shownName() != node:
		return a.forbid("can only access node lease with the same name as the requesting node")
	}
	return nil
}

// restrictSlice holds a node to slices of its own devices where the authorizer
// did not see the object.
func restrictSlice(a *Attributes, node string) error {
	obj, of := a.New, "create"
	switch a.Verb {
	case create:
	case remove:
		obj, of = a.Old, "delete"
	default:
		return nil
	}
	if s, ok := obj.(*resourcev1.ResourceSlice); !ok || s.Spec.NodeName == nil || *s.Spec.NodeName != node {
		return a.forbid("can only %s ResourceSlice with the same NodeName as the requesting node", of)
	}
	return nil
}

// restrictCertificate allows requests for the node's own certificates.
func restrictCertificate(a *Attributes, node string) error {
	csr, ok := a.New.(*certificatesv1.CertificateSigningRequest)
	if !ok || a.Verb != create || a.Subresource != "" ||
		csr.Spec.SignerName != certificatesv1.KubeletServingSignerName && csr.Spec.SignerName != certificatesv1.KubeAPIServerClientKubeletSignerName {
		return nil
	}
	request, err := parseRequest(csr)
	if err != nil {
		return a.forbid("unable to parse csr: %w", err)
	}
	if request.Subject.CommonName != "system:node:"+node {
		return a.forbid("can only create a node CSR with CN=system:node:%s", node)
	}
	return nil
}

func parseRequest(csr *certificatesv1.CertificateSigningRequest) (*x509.CertificateRequest, error) {
	block, _ := pem.Decode(csr.Spec.Request)
	if block == nil || block.Type != "CERTIFICATE REQUEST" {
		return nil, fmt.Errorf("PEM block type must be CERTIFICATE REQUEST")
	}
	return x509.ParseCertificateRequest(block.Bytes)
}
