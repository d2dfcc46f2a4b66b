package bootstrap

import rbacv1 "k8s.io/api/rbac/v1"

// clusterRoleBindings bind cluster roles of the same name, if no other is given.
var clusterRoleBindings = []binding{
	{name: "cluster-admin", subjects: []rbacv1.Subject{group("system:masters")}},
	{name: "system:basic-user", subjects: []rbacv1.Subject{group("system:authenticated")}},
	{name: "system:discovery", subjects: []rbacv1.Subject{group("system:authenticated")}},
	{name: "system:kube-controller-manager", subjects: []rbacv1.Subject{user("system:kube-controller-manager")}},
	{name: "system:kube-dns", subjects: []rbacv1.Subject{account("kube-system", "kube-dns")}},
	{name: "system:kube-scheduler", subjects: []rbacv1.Subject{user("system:kube-scheduler")}},
	{name: "system:monitoring", subjects: []rbacv1.Subject{group("system:monitoring")}},
	{name: "system:node"},
	{name: "system:node-proxier", subjects: []rbacv1.Subject{user("system:kube-proxy")}},
	{name: "system:public-info-viewer", subjects: []rbacv1.Subject{group("system:authenticated"), group("system:unauthenticated")}},
	{name: "system:service-account-issuer-discovery", subjects: []rbacv1.Subject{group("system:serviceaccounts")}},
	{name: "system:volume-scheduler", subjects: []rbacv1.Subject{user("system:kube-scheduler")}},
}

// roles are those that namespaces of the system have.
var roles = []role{
	{name: "system:controller:bootstrap-signer", namespace: "kube-public", rules: []rule{
		{verbs: "get,list,watch", groups: "core", resources: "configmaps"},
		{verbs: "update", groups: "core", resources: "configmaps", names: "cluster-info"},
		{verbs: "create,patch,update", groups: "core,events.k8s.io", resources: "events"},
	}},
	{name: "extension-apiserver-authentication-reader", namespace: "kube-system", rules: []rule{
		{verbs: "get,list,watch", groups: "core", resources: "configmaps", names: "extension-apiserver-authentication"},
	}},
	{name: "system::leader-locking-kube-controller-manager", namespace: "kube-system", rules: []rule{
		{verbs: "create,get,list,update,watch", groups: "coordination.k8s.io", resources: "leases"},
		{verbs: "create,get,list,update,watch", groups: "coordination.k8s.io", resources: "leasecandidates"},
	}},
	{name: "system::leader-locking-kube-scheduler", namespace: "kube-system", rules: []rule{
		{verbs: "create,get,list,update,watch", groups: "coordination.k8s.io", resources: "leases"},
		{verbs: "create,get,list,update,watch", groups: "coordination.k8s.io", resources: "leasecandidates"},
	}},
	{name: "system:controller:bootstrap-signer", namespace: "kube-system", rules: []rule{
		{verbs: "get,list,watch", groups: "core", resources: "secrets"},
	}},
	{name: "system:controller:cloud-provider", namespace: "kube-system", rules: []rule{
		{verbs: "create,get,list,watch", groups: "core", resources: "configmaps"},
	}},
	{name: "system:controller:token-cleaner", namespace: "kube-system", rules: []rule{
		{verbs: "delete,get,list,watch", groups: "core", resources: "secrets"},
		{verbs: "create,patch,update", groups: "core,events.k8s.io", resources: "events"},
	}},
}

var roleBindings = []binding{
	{name: "system:controller:bootstrap-signer", namespace: "kube-public", subjects: []rbacv1.Subject{account("kube-system", "bootstrap-signer")}},
	{name: "system::extension-apiserver-authentication-reader", namespace: "kube-system", role: "extension-apiserver-authentication-reader", subjects: []rbacv1.Subject{user("system:kube-controller-manager"), user("system:kube-scheduler")}},
	{name: "system::leader-locking-kube-controller-manager", namespace: "kube-system", subjects: []rbacv1.Subject{user("system:kube-controller-manager"), account("kube-system", "kube-controller-manager"), account("kube-system", "leader-election-controller")}},
	{name: "system::leader-locking-kube-scheduler", namespace: "kube-system", subjects: []rbacv1.Subject{user("system:kube-scheduler"), account("kube-system", "kube-scheduler")}},
	{name: "system:controller:bootstrap-signer", namespace: "kube-system", subjects: []rbacv1.Subject{account("kube-system", "bootstrap-signer")}},
	{name: "system:controller:cloud-provider", namespace: "kube-system", subjects: []rbacv1.Subject{account("kube-system", "cloud-provider")}},
	{name: "system:controller:token-cleaner", namespace: "kube-system", subjects: []rbacv1.Subject{account("kube-system", "token-cleaner")}},
}
