package authz

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	resourcev1 "k8s.io/api/resource/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/skiff-k8s/skiff/apiserver/resource"
	"github.com/skiff-k8s/skiff/apiserver/store"
)

// nodes lets a kubelet do what it needs for its own node and the pods on it.
// What it writes is limited further by admission (NodeRestriction), which sees
// the objects.
type nodes struct {
	rules  []rbacv1.PolicyRule
	source Source // nil before Load
	lookup Lookup
}

// Authorize implements authorizer.Authorizer for users that are nodes.
func (n *nodes) Authorize(ctx context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	node, isNode := NodeName(a.GetUser())
	if !isNode {
		return authorizer.DecisionNoOpinion, "", nil
	}
	if node == "" {
		return authorizer.DecisionNoOpinion, fmt.Sprintf("unknown node for user %q", a.GetUser().GetName()), nil
	}
	refusal, err := n.refusal(ctx, node, a)
	if err != nil || refusal != allowed {
		return authorizer.DecisionNoOpinion, refusal, err
	}
	return authorizer.DecisionAllow, "", nil
}

// kind finds a kind; nil also before there is anything to read.
func (n nodes) kind(group, plural string) *resource.Resource {
	if n.lookup == nil {
		return nil
	}
	return n.lookup(group, plural)
}

// allowed is the refusal that is none: an impossible reason, so that the empty
// one can stand for a refusal without a reason.
const allowed = "\x00"

// resourceRule says why node may not do a; allowed if it may.
type resourceRule func(n nodes, ctx context.Context, node string, a authorizer.Attributes) (string, error)

// nodeResources are the kinds of which a node may use only what concerns it.
// Everything else is decided by the rules all nodes have.
var nodeResources = map[string]resourceRule{
	"/secrets":                         readNamespaced(func(p *corev1.Pod, name string) bool { return PodReferences(p).Secrets.Has(name) }),
	"/configmaps":                      readNamespaced(func(p *corev1.Pod, name string) bool { return PodReferences(p).ConfigMaps.Has(name) }),
	"/persistentvolumeclaims":          claimRule,
	"/persistentvolumes":               volumeRule,
	"/serviceaccounts":                 serviceAccountRule,
	"/nodes":                           nodeRule,
	"/pods":                            podRule,
	"coordination.k8s.io/leases":       leaseRule,
	"storage.k8s.io/csinodes":          csiNodeRule,
	"storage.k8s.io/volumeattachments": attachmentRule,
	"resource.k8s.io/resourceclaims":   deviceClaimRule,
	"resource.k8s.io/resourceslices":   sliceRule,
}

func (n nodes) refusal(ctx context.Context, node string, a authorizer.Attributes) (string, error) {
	if rule := nodeResources[a.GetAPIGroup()+"/"+a.GetResource()]; rule != nil && a.IsResourceRequest() {
		return rule(n, ctx, node, a)
	}
	if slices.ContainsFunc(n.rules, func(r rbacv1.PolicyRule) bool { return allows(&r, a) }) {
		return allowed, nil
	}
	return "", nil
}

// related allows a if a pod on node satisfies needs. Mirror pods do not count:
// the node made them, so they must not give it rights.
func (n nodes) related(ctx context.Context, node, namespace string, needs func(*corev1.Pod) bool) (string, error) {
	return n.decide(ctx, node, namespace, func(p *corev1.Pod) bool {
		_, mirror := p.Annotations[corev1.MirrorPodAnnotationKey]
		return !mirror && needs(p)
	})
}

// decide allows if a pod on node, of whatever sort, satisfies needs.
func (n nodes) decide(ctx context.Context, node, namespace string, needs func(*corev1.Pod) bool) (string, error) {
	found, err := n.anyPod(ctx, node, namespace, needs)
	if err != nil || found {
		return allowed, err
	}
	return unrelated(node), nil
}

// anyPod looks at the cached pods first. A kubelet can be told of a pod before
// this server's cache is; so a miss is checked against the newest state.
func (n nodes) anyPod(ctx context.Context, node, namespace string, needs func(*corev1.Pod) bool) (bool, error) {
	pods := n.kind("", "pods")
	if pods == nil {
		return false, nil
	}
	onNode := store.Match{Namespace: namespace, IndexValue: node, Select: func(obj resource.Object) bool {
		return obj.(*corev1.Pod).Spec.NodeName == node
	}}
	const cached, newest = 0, -1
	for _, revision := range []int64{cached, newest} {
		items, _, err := n.source.Snapshot(ctx, pods, onNode, revision)
		if err != nil {
			return false, fmt.Errorf("read pods of node %s: %w", node, err)
		}
		for _, item := range items {
			if needs(item.Object().(*corev1.Pod)) {
				return true, nil
			}
		}
	}
	return false, nil
}

func unrelated(node string) string {
	return fmt.Sprintf("no relationship found between node '%s' and this object", node)
}

// named allows a if it names an object that a pod on node needs.
func named(needs func(p *corev1.Pod, name string) bool) resourceRule {
	return func(n nodes, ctx context.Context, node string, a authorizer.Attributes) (string, error) {
		if a.GetName() == "" {
			return "No Object name found", nil
		}
		return n.related(ctx, node, a.GetNamespace(), func(p *corev1.Pod) bool { return needs(p, a.GetName()) })
	}
}

// readNamespaced allows to get, list and watch single objects that pods need.
func readNamespaced(needs func(p *corev1.Pod, name string) bool) resourceRule {
	return func(n nodes, ctx context.Context, node string, a authorizer.Attributes) (string, error) {
		switch {
		case !a.IsReadOnly():
			return "can only read resources of this type", nil
		case a.GetSubresource() != "":
			return "cannot read subresource", nil
		case a.GetNamespace() == "":
			return "can only read namespaced object of this type", nil
		}
		return named(needs)(n, ctx, node, a)
	}
}

func usesClaim(p *corev1.Pod, name string) bool { return PodReferences(p).Claims.Has(name) }

func claimRule(n nodes, ctx context.Context, node string, a authorizer.Attributes) (string, error) {
	switch {
	case a.GetSubresource() == "status" && a.GetVerb() != "update" && a.GetVerb() != "patch":
		return "can only get/update/patch this type", nil
	case a.GetSubresource() == "" && a.GetVerb() != "get":
		return "can only get individual resources of this type", nil
	case a.GetSubresource() != "" && a.GetSubresource() != "status":
		return "cannot get subresource", nil
	}
	return named(usesClaim)(n, ctx, node, a)
}

// onlyGet refuses what is not reading a single object.
func onlyGet(a authorizer.Attributes) string {
	switch {
	case a.GetVerb() != "get":
		return "can only get individual resources of this type"
	case a.GetSubresource() != "":
		return "cannot get subresource"
	}
	return allowed
}

// volumeRule allows to get a volume that is bound to a claim a pod uses.
func volumeRule(n nodes, ctx context.Context, node string, a authorizer.Attributes) (string, error) {
	if refusal := onlyGet(a); refusal != allowed {
		return refusal, nil
	}
	kind := n.kind("", "persistentvolumes")
	if kind == nil {
		return "", nil
	}
	items, _, err := n.source.Snapshot(ctx, kind, store.Match{Name: a.GetName()}, -1)
	if err != nil {
		return "", fmt.Errorf("read persistent volume %s: %w", a.GetName(), err)
	}
	for _, item := range items {
		if claim := item.Object().(*corev1.PersistentVolume).Spec.ClaimRef; claim != nil {
			return n.related(ctx, node, claim.Namespace, func(p *corev1.Pod) bool { return usesClaim(p, claim.Name) })
		}
	}
	return unrelated(node), nil
}

func serviceAccountRule(n nodes, ctx context.Context, node string, a authorizer.Attributes) (string, error) {
	runsAs := func(p *corev1.Pod, name string) bool { return p.Spec.ServiceAccountName == name }
	switch {
	case a.GetVerb() == "get" && a.GetSubresource() == "":
		return readNamespaced(runsAs)(n, ctx, node, a)
	case a.GetVerb() != "create" || a.GetName() == "":
		return "can only create tokens for individual service accounts", nil
	case a.GetSubresource() != "token":
		return "can only create token subresource of serviceaccount", nil
	}
	return named(runsAs)(n, ctx, node, a)
}

func nodeRule(_ nodes, _ context.Context, node string, a authorizer.Attributes) (string, error) {
	switch a.GetSubresource() + ":" + a.GetVerb() {
	case ":create", ":update", ":patch", "status:update", "status:patch":
		return allowed, nil
	case ":get", ":list", ":watch":
		switch a.GetName() {
		case node:
			return allowed, nil
		case "":
			return fmt.Sprintf("node '%s' cannot read all nodes, only its own Node object", node), nil
		default:
			return fmt.Sprintf("node '%s' cannot read '%s', only its own Node object", node, a.GetName()), nil
		}
	}
	return "", nil
}

func podRule(n nodes, ctx context.Context, node string, a authorizer.Attributes) (string, error) {
	self := func() (string, error) {
		return n.decide(ctx, node, a.GetNamespace(), func(p *corev1.Pod) bool { return p.Name == a.GetName() })
	}
	switch a.GetSubresource() + ":" + a.GetVerb() {
	case ":create", ":delete", "status:update", "status:patch", "eviction:create":
		return allowed, nil
	case ":get":
		return self()
	case ":list", ":watch":
		if selectsNode(a, node) {
			return allowed, nil
		}
		if a.GetName() != "" {
			return self()
		}
		return "can only list/watch pods with spec.nodeName field selector", nil
	}
	return "", nil
}

// selectsNode reports whether a is about the objects that have node in their
// field spec.nodeName.
func selectsNode(a authorizer.Attributes, node string) bool {
	requirements, err := a.GetFieldSelector()
	if err != nil {
		return false
	}
	for _, r := range requirements {
		if r.Field == "spec.nodeName" && r.Operator == selection.Equals && r.Value == node {
			return true
		}
	}
	return false
}

var ownObjectVerbs = []string{"get", "create", "update", "patch", "delete"}

// leaseRule leaves the name on create to admission: it is not known here.
func leaseRule(_ nodes, _ context.Context, node string, a authorizer.Attributes) (string, error) {
	switch {
	case !slices.Contains(ownObjectVerbs, a.GetVerb()):
		return "can only get, create, update, patch, or delete a node lease", nil
	case a.GetNamespace() != corev1.NamespaceNodeLease:
		return fmt.Sprintf("can only access leases in the %q system namespace", corev1.NamespaceNodeLease), nil
	case a.GetVerb() != "create" && a.GetName() != node:
		return "can only access node lease with the same name as the requesting node", nil
	}
	return allowed, nil
}

func csiNodeRule(_ nodes, _ context.Context, node string, a authorizer.Attributes) (string, error) {
	switch {
	case !slices.Contains(ownObjectVerbs, a.GetVerb()):
		return "can only get, create, update, patch, or delete a CSINode", nil
	case a.GetSubresource() != "":
		return "cannot authorize CSINode subresources", nil
	case a.GetVerb() != "create" && a.GetName() != node:
		return "can only access CSINode with the same name as the requesting node", nil
	}
	return allowed, nil
}

// attachmentRule allows to get an attachment of a volume to the node itself.
func attachmentRule(n nodes, ctx context.Context, node string, a authorizer.Attributes) (string, error) {
	if refusal := onlyGet(a); refusal != allowed {
		return refusal, nil
	}
	kind := n.kind("storage.k8s.io", "volumeattachments")
	if kind == nil {
		return "", nil
	}
	items, _, err := n.source.Snapshot(ctx, kind, store.Match{Name: a.GetName()}, -1)
	if err != nil {
		return "", fmt.Errorf("read volume attachment %s: %w", a.GetName(), err)
	}
	for _, item := range items {
		if item.Object().(*storagev1.VolumeAttachment).Spec.NodeName == node {
			return allowed, nil
		}
	}
	return unrelated(node), nil
}

// deviceClaimRule allows to get the claims for devices of pods.
func deviceClaimRule(n nodes, ctx context.Context, node string, a authorizer.Attributes) (string, error) {
	if refusal := onlyGet(a); refusal != allowed {
		return refusal, nil
	}
	return named(func(p *corev1.Pod, name string) bool { return PodReferences(p).DeviceClaims.Has(name) })(n, ctx, node, a)
}

// sliceRule leaves the contents of new slices, and of those deleted together, to
// admission: they are not known here.
func sliceRule(n nodes, ctx context.Context, node string, a authorizer.Attributes) (string, error) {
	if a.GetSubresource() != "" {
		return "cannot authorize ResourceSlice subresources", nil
	}
	switch a.GetVerb() {
	case "create":
		return allowed, nil
	case "get", "update", "patch", "delete":
		return n.ownSlice(ctx, node, a.GetName())
	case "watch", "list", "deletecollection":
		if selectsNode(a, node) {
			return allowed, nil
		}
		return "can only list/watch/deletecollection resourceslices with nodeName field selector", nil
	}
	return "only the following verbs are allowed for a ResourceSlice: get, watch, list, create, update, patch, delete, deletecollection", nil
}

// ownSlice allows if the slice of a name has devices of node.
func (n nodes) ownSlice(ctx context.Context, node, name string) (string, error) {
	kind := n.kind("resource.k8s.io", "resourceslices")
	switch {
	case name == "":
		return "No Object name found", nil
	case kind == nil:
		return "", nil
	}
	items, _, err := n.source.Snapshot(ctx, kind, store.Match{Name: name}, -1)
	if err != nil {
		return "", fmt.Errorf("read resource slice %s: %w", name, err)
	}
	for _, item := range items {
		if of := item.Object().(*resourcev1.ResourceSlice).Spec.NodeName; of != nil && *of == node {
			return allowed, nil
		}
	}
	return unrelated(node), nil
}
