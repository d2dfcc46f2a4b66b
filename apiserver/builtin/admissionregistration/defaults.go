package admissionregistration

import (
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func setDefault[T any](field **T, value T) {
	if *field == nil {
		*field = &value
	}
}

func defaults(failure **admissionregistrationv1.FailurePolicyType, match **admissionregistrationv1.MatchPolicyType, timeout **int32) {
	setDefault(failure, admissionregistrationv1.Fail)
	setDefault(match, admissionregistrationv1.Equivalent)
	setDefault(timeout, 10)
}

func defaultSelectors(selectors ...**metav1.LabelSelector) {
	for _, s := range selectors {
		setDefault(s, metav1.LabelSelector{})
	}
}

func defaultRules(rules []admissionregistrationv1.RuleWithOperations, service *admissionregistrationv1.ServiceReference) {
	for i := range rules {
		setDefault(&rules[i].Scope, admissionregistrationv1.AllScopes)
	}
	if service != nil {
		setDefault(&service.Port, 443)
	}
}
