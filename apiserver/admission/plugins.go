package admission

import (
	"slices"

	"github.com/prometheus/client_golang/prometheus"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/skiff-k8s/skiff/apiserver/features"
	"github.com/skiff-k8s/skiff/apiserver/resource"
)

// Rights says what users may do; an *authz.Authorizer.
type Rights interface {
	authorizer.Authorizer
	// PolicyRules are all rules bound to u in a namespace, "" for the whole
	// cluster. The rules are valid also if there is an error.
	PolicyRules(u user.Info, namespace string) ([]rbacv1.PolicyRule, error)
	// RoleRules are the rules of the role a binding in a namespace names.
	RoleRules(ref rbacv1.RoleRef, namespace string) ([]rbacv1.PolicyRule, bool)
}

// Config of the chain of a server.
type Config struct {
	Rights Rights
	// Served are the kinds that are served now.
	Served func() []*resource.Resource
	// Mutating and Validating ask policies and webhooks.
	Mutating, Validating []Plugin
	// Metrics is where the chain counts; nil: nowhere.
	Metrics prometheus.Registerer
	Choice  Choice
	// Features are the gates, of which some are of plugins.
	Features features.Gates
}

// gated are the plugins that act while a gate is on.
var gated = map[string]features.Gate{"MutatingAdmissionPolicy": features.MutatingAdmissionPolicy, "PodTopologyLabels": features.PodTopologyLabelsAdmission}

// Standard is the chain of a server, in the order in which the steps run in each phase. A choice that names what there is
// not is an error, and so is a wrong configuration. Plugins that have one stand here by name.
func Standard(c Config) (Chain, error) {
	rights := c.Rights
	chain, err := c.Choice.of(slices.Concat(Chain{
		alwaysAdmit(),
		namespaceAutoProvision(),
		namespaceLifecycle(),
		namespaceExists(),
		limitPodHardAntiAffinityTopology(),
		limitRanger(),
		serviceAccount(),
		nodeRestriction(rights),
		taintNodesByCondition(),
		alwaysPullImages(),
		{Name: "ImagePolicyWebhook"},
		{Name: "PodSecurity"},
		{Name: "PodNodeSelector"},
		priority(),
		defaultTolerationSeconds(c.Choice),
		{Name: "PodTolerationRestriction"},
		{Name: "EventRateLimit"},
		extendedResourceToleration(),
		defaultStorageClass(),
		storageObjectInUseProtection(),
		ownerRights(rights, c.Served),
		persistentVolumeClaimResize(),
		runtimeClass(),
		certificateApproval(rights),
		certificateSigning(rights),
		certificateSubjectRestriction(),
		defaultIngressClass(),
		denyServiceExternalIPs(),
		podTopologyLabels(),
		nodeDeclaredFeatureValidator(),
		podResizeValidator(),
	}, c.Mutating, Chain{
		// Roles are checked last in the mutating phase: what is granted must be
		// what will be stored.
		roleEscalation(rights),
	}, c.Validating, Chain{
		{Name: "ResourceQuota"},
		alwaysDeny(),
	}))
	if err != nil {
		return nil, err
	}
	chain = slices.DeleteFunc(chain, func(p Plugin) bool { return gated[p.Name] != "" && !c.Features.Enabled(gated[p.Name]) })
	return c.Choice.configure(chain, map[string]func([]byte) (Plugin, error){
		"ImagePolicyWebhook": imagePolicyWebhook, "PodNodeSelector": podNodeSelector, "PodTolerationRestriction": podTolerationRestriction,
		"EventRateLimit": eventRateLimit, "ResourceQuota": resourceQuota,
		"PodSecurity": func(data []byte) (Plugin, error) { return podSecurity(data, newSecurityMetrics(c.Metrics)) },
	})
}
