package admission

import (
	"slices"

	"github.com/prometheus/client_golang/prometheus"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
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

// Standard is the chain of a server, in the order in which the steps run in
// each phase. mutating and validating ask policies and webhooks. It counts in
// metrics; nil: nowhere.
func Standard(rights Rights, metrics prometheus.Registerer, mutating, validating []Plugin) Chain {
	return slices.Concat(Chain{
		namespaceLifecycle(),
		limitRanger(),
		serviceAccount(),
		nodeRestriction(rights),
		taintNodesByCondition(),
		podSecurity(newSecurityMetrics(metrics)),
		priority(),
		defaultTolerationSeconds(),
		defaultStorageClass(),
		storageObjectInUseProtection(),
		persistentVolumeClaimResize(),
		runtimeClass(),
		certificateApproval(rights),
		certificateSigning(rights),
		certificateSubjectRestriction(),
		defaultIngressClass(),
		podTopologyLabels(),
		nodeDeclaredFeatureValidator(),
		podResizeValidator(),
	}, mutating, Chain{
		// Roles are checked last in the mutating phase: what is granted must be
		// what will be stored.
		roleEscalation(rights),
	}, validating, Chain{
		resourceQuota(),
	})
}
