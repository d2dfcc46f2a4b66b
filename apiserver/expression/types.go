package expression

import apiservercel "k8s.io/apiserver/pkg/cel"

// fields are the fields of a type, by name.
type fields map[string]*apiservercel.DeclType

func object(name string, required, optional fields) *apiservercel.DeclType {
	all := make(map[string]*apiservercel.DeclField, len(required)+len(optional))
	for field, kind := range required {
		all[field] = apiservercel.NewDeclField(field, kind, true, nil, nil)
	}
	for field, kind := range optional {
		all[field] = apiservercel.NewDeclField(field, kind, false, nil, nil)
	}
	return apiservercel.NewObjectType(name, all)
}

func list(of *apiservercel.DeclType) *apiservercel.DeclType { return apiservercel.NewListType(of, -1) }

func mapOf(values *apiservercel.DeclType) *apiservercel.DeclType {
	return apiservercel.NewMapType(apiservercel.StringType, values, -1)
}

// requestType is what an expression sees of a request: an AdmissionRequest without its objects and its uid.
func requestType() *apiservercel.DeclType {
	text := apiservercel.StringType
	kind := object("kubernetes.GroupVersionKind", fields{"group": text, "version": text, "kind": text}, nil)
	resource := object("kubernetes.GroupVersionResource", fields{"group": text, "version": text, "resource": text}, nil)
	return object("kubernetes.AdmissionRequest",
		fields{"kind": kind, "resource": resource, "requestKind": kind, "requestResource": resource, "name": text, "operation": text, "userInfo": userType()},
		fields{"subResource": text, "requestSubResource": text, "namespace": text, "dryRun": apiservercel.BoolType, "options": apiservercel.DynType})
}

// userType is what an expression sees of a user.
func userType() *apiservercel.DeclType {
	text := apiservercel.StringType
	return object("kubernetes.UserInfo", nil, fields{"username": text, "uid": text, "groups": list(text), "extra": mapOf(list(text))})
}

// namespaceType is what an expression sees of the namespace.
func namespaceType() *apiservercel.DeclType {
	text, number, date := apiservercel.StringType, apiservercel.IntType, apiservercel.TimestampType
	condition := object("kubernetes.NamespaceCondition",
		fields{"status": text, "type": text, "lastTransitionTime": date, "message": text, "reason": text}, nil)
	metadata := object("kubernetes.NamespaceMetadata", fields{
		"name": text, "generateName": text, "namespace": text, "labels": mapOf(text), "annotations": mapOf(text), "UID": text,
		"creationTimestamp": date, "deletionGracePeriodSeconds": number, "deletionTimestamp": date, "generation": number,
		"resourceVersion": text, "finalizers": list(text),
	}, nil)
	return object("kubernetes.Namespace", fields{
		"metadata": metadata,
		"spec":     object("kubernetes.NamespaceSpec", fields{"finalizers": list(text)}, nil),
		"status":   object("kubernetes.NamespaceStatus", fields{"conditions": list(condition), "phase": text}, nil),
	}, nil)
}
