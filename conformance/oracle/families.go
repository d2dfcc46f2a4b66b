package main

import (
	"fmt"
	"net/http"
	"strings"
)

// Addresses of the cases of IP families. Whether they are of the cluster is a matter of the ranges the servers were
// started with (-service-cidr); the cases are the same for all. They are of the lower part of the ranges, so that no
// server gives them away by itself.
//
// When one of two addresses is refused, kube-apiserver may keep the other for minutes, as it takes them in the order of
// a map. Cases in which that can happen have addresses of their own.
const (
	v4, otherV4, foreignV4 = "10.96.0.7", "10.96.0.8", "192.168.3.4"
	v6, otherV6, foreignV6 = "fd00:96::7", "fd00:96::8", "2001:db8::4"
)

// Ranges of clusters of IPv6, and of both families.
const (
	ipv6Range      = "fd00:96::/108"
	dualRanges     = "10.96.0.0/16,fd00:96::/108"
	dualRangesIPv6 = "fd00:96::/108,10.96.0.0/16"
)

const familyService = "families"

// familyCases ask what becomes of a Service's policy, families and addresses, for every combination of them at a
// create, and for every change of every kind of Service.
func familyCases() []testCase {
	cases := []testCase{{Name: "what the servers make", Requests: []request{
		{Method: http.MethodGet, Path: "/api/v1/namespaces/default/services/kubernetes?includeObject=None", Accept: forms["table"]},
		{Method: http.MethodPatch, Path: "/api/v1/namespaces/default/services/kubernetes?dryRun=All", Type: patchTypes["merge"], Body: `{"spec":{"ipFamilyPolicy":"RequireDualStack","ports":null}}`},
	}}}
	kept := 0
	for _, policy := range []any{nil, "SingleStack", "PreferDualStack", "RequireDualStack", "Both"} {
		for _, families := range [][]any{nil, {"IPv4"}, {"IPv6"}, {"IPv4", "IPv6"}, {"IPv6", "IPv4"}, {"IPv4", "IPv4"}, {"IPv5"}} {
			for _, ips := range [][]any{nil, {v4}, {v6}, {v4, v6}, {v6, v4}, {v4, otherV4}, {foreignV4}, {foreignV6, v4}, {"None"}, {"None", v6}} {
				if len(ips) > 0 && ips[0] == foreignV6 {
					kept++
					ips = []any{foreignV6, fmt.Sprintf("10.96.0.%d", 20+kept)}
				}
				spec := familySpec(policy, families, ips)
				cases = append(cases, familyCreate(spec))
				if len(ips) > 0 && ips[0] == "None" {
					delete(spec, "selector")
					cases = append(cases, familyCreate(spec))
				}
			}
		}
	}
	return append(append(cases, familyChanges()...), familyClaims()...)
}

// familySpec is one of a Service; what is nil is left out.
func familySpec(policy any, families, ips []any) map[string]any {
	spec := map[string]any{"selector": map[string]any{"a": "b"}, "ports": []any{map[string]any{"port": 80}}}
	if policy != nil {
		spec["ipFamilyPolicy"] = policy
	}
	if families != nil {
		spec["ipFamilies"] = families
	}
	if ips != nil {
		spec["clusterIP"], spec["clusterIPs"] = ips[0], ips
	}
	return spec
}

func familyBody(name string, spec map[string]any) string {
	return text(map[string]any{"metadata": map[string]any{"name": name}, "spec": spec})
}

func familyCreate(spec map[string]any) testCase {
	return testCase{Name: "create " + text(spec), Requests: []request{
		{Method: http.MethodPost, Path: writtenPrefix + "services", Body: familyBody(familyService, spec)},
		{Method: http.MethodDelete, Path: writtenPrefix + "services/" + familyService, Quiet: true},
	}}
}

// familyChanges change Services that are there.
func familyChanges() []testCase {
	with := func(spec map[string]any, more ...any) map[string]any {
		for i := 0; i < len(more); i += 2 {
			spec[more[i].(string)] = more[i+1]
		}
		return spec
	}
	external := map[string]any{"type": "ExternalName", "externalName": "example.com"}
	foreign := func(policy any, families []any) map[string]any {
		spec := familySpec(policy, families, []any{"None"})
		delete(spec, "selector")
		return spec
	}
	from := []map[string]any{
		familySpec(nil, nil, nil),
		familySpec("SingleStack", []any{"IPv6"}, nil),
		familySpec("PreferDualStack", nil, nil),
		familySpec("PreferDualStack", []any{"IPv6", "IPv4"}, nil),
		familySpec("RequireDualStack", nil, []any{v4, v6}),
		with(familySpec("RequireDualStack", nil, nil), "type", "NodePort"),
		familySpec("PreferDualStack", nil, []any{"None"}),
		familySpec(nil, nil, []any{"None"}),
		foreign(nil, nil),
		foreign("SingleStack", []any{"IPv6"}),
		external,
	}
	changes := []map[string]any{
		{"ipFamilyPolicy": "SingleStack"},
		{"ipFamilyPolicy": "PreferDualStack"},
		{"ipFamilyPolicy": "RequireDualStack"},
		{"ipFamilyPolicy": nil},
		{"ipFamilyPolicy": nil, "ipFamilies": nil, "clusterIP": nil, "clusterIPs": nil},
		{"ipFamilies": []any{"IPv4"}},
		{"ipFamilies": []any{"IPv6"}},
		{"ipFamilies": []any{"IPv4", "IPv6"}},
		{"ipFamilies": []any{"IPv6", "IPv4"}},
		{"ipFamilies": nil},
		{"ipFamilyPolicy": "SingleStack", "ipFamilies": []any{"IPv4"}},
		{"ipFamilyPolicy": "SingleStack", "ipFamilies": []any{"IPv6"}},
		{"ipFamilyPolicy": "SingleStack", "ipFamilies": []any{"IPv4"}, "clusterIPs": []any{v4}, "clusterIP": v4},
		{"ipFamilyPolicy": "PreferDualStack", "ipFamilies": []any{"IPv4"}},
		{"ipFamilyPolicy": "PreferDualStack", "ipFamilies": []any{"IPv4", "IPv6"}},
		{"ipFamilyPolicy": "RequireDualStack", "ipFamilies": []any{"IPv4", "IPv6"}},
		{"ipFamilyPolicy": "RequireDualStack", "ipFamilies": []any{"IPv6", "IPv4"}},
		{"ipFamilyPolicy": "RequireDualStack", "clusterIPs": []any{v4, otherV6}},
		{"ipFamilyPolicy": "PreferDualStack", "clusterIPs": []any{v4}},
		{"clusterIPs": []any{v4}},
		{"clusterIPs": []any{v6, v4}, "clusterIP": v6},
		{"clusterIPs": []any{v4, foreignV6}},
		{"clusterIPs": nil},
		{"clusterIP": "None", "clusterIPs": []any{"None"}},
		{"clusterIP": ""},
		{"type": "ExternalName", "externalName": "example.com"},
		{"type": "ExternalName", "externalName": "example.com", "clusterIP": nil, "clusterIPs": nil, "ipFamilies": nil, "ipFamilyPolicy": nil},
		{"type": "ClusterIP", "ports": []any{map[string]any{"port": 80}}},
		{"type": "ClusterIP", "ports": []any{map[string]any{"port": 80}}, "ipFamilyPolicy": "RequireDualStack"},
		{"type": "ClusterIP", "ports": []any{map[string]any{"port": 80}}, "ipFamilies": []any{"IPv6"}, "clusterIP": v6},
		{"type": "NodePort", "ipFamilyPolicy": "PreferDualStack"},
		{"selector": nil},
	}
	var cases []testCase
	at := writtenPrefix + "services/" + familyService
	for _, spec := range from {
		for _, change := range changes {
			cases = append(cases, testCase{Name: fmt.Sprintf("change %s by %s", text(spec), text(change)), Requests: []request{
				{Method: http.MethodPost, Path: writtenPrefix + "services", Body: familyBody(familyService, spec)},
				{Method: http.MethodPatch, Path: at + "?dryRun=All", Type: patchTypes["merge"], Body: text(map[string]any{"spec": change})},
				{Method: http.MethodPatch, Path: at, Type: patchTypes["merge"], Body: text(map[string]any{"spec": change})},
				{Method: http.MethodPatch, Path: at, Type: patchTypes["merge"], Body: `{"metadata":{"labels":{"touched":"again"}}}`},
				{Method: http.MethodDelete, Path: at, Quiet: true},
			}})
		}
	}
	return cases
}

// familyClaims say which addresses are taken, by what there is of IPAddresses and by who may take them next.
func familyClaims() []testCase {
	services, at := writtenPrefix+"services", writtenPrefix+"services/"+familyService
	claimed := func(ip string) request {
		return request{Method: http.MethodGet, Path: "/apis/networking.k8s.io/v1/ipaddresses/" + ip + "?includeObject=None", Accept: forms["table"]}
	}
	create := func(name, policy string, ips ...any) request {
		return request{Method: http.MethodPost, Path: services, Body: familyBody(name, familySpec(policy, nil, ips))}
	}
	change := func(spec map[string]any) request {
		return request{Method: http.MethodPatch, Path: at, Type: patchTypes["merge"], Body: text(map[string]any{"spec": spec})}
	}
	const other = "families-other"
	cases := []testCase{
		{Name: "the second address is taken", Requests: []request{
			create(familyService, "RequireDualStack", "10.96.0.100", "fd00:96::100"), claimed("10.96.0.100"), claimed("fd00:96::100"),
			create(other, "PreferDualStack", "10.96.0.101", "fd00:96::100"), create(other, "PreferDualStack", "fd00:96::100", "10.96.0.102"),
		}},
		{Name: "the second address is given back", Requests: []request{
			create(familyService, "RequireDualStack", "10.96.0.110", "fd00:96::b0"), change(map[string]any{"ipFamilyPolicy": "SingleStack"}),
			claimed("10.96.0.110"), claimed("fd00:96::b0"), create(other, "PreferDualStack", "10.96.0.111", "fd00:96::b0"), claimed("fd00:96::b0"),
		}},
		{Name: "both are given back", Requests: []request{
			create(familyService, "RequireDualStack", "10.96.0.120", "fd00:96::c0"), {Method: http.MethodDelete, Path: at},
			claimed("10.96.0.120"), claimed("fd00:96::c0"), create(other, "RequireDualStack", "10.96.0.120", "fd00:96::c0"),
		}},
		{Name: "a second address that is taken refuses an upgrade", Requests: []request{
			create(familyService, "SingleStack", "10.96.0.130"), create(other, "SingleStack", "fd00:96::d0"),
			change(map[string]any{"ipFamilyPolicy": "RequireDualStack", "clusterIPs": []any{"10.96.0.130", "fd00:96::d0"}}),
			change(map[string]any{"ipFamilyPolicy": "RequireDualStack", "clusterIPs": []any{"10.96.0.130", "fd00:96::d1"}}),
		}},
	}
	for _, address := range []string{"fd00:96:0::e7", "FD00:96::e8", "::ffff:10.96.0.140", "fe80::1%eth0", "fd00:96::", "fd00:96::f:ffff", "10.96.255.255"} {
		cases = append(cases, testCase{Name: "address " + strings.ReplaceAll(address, "%", " "), Requests: []request{create(other, "PreferDualStack", address)}})
	}
	for i := range cases {
		for _, name := range []string{familyService, other} {
			cases[i].Requests = append(cases[i].Requests, request{Method: http.MethodDelete, Path: services + "/" + name, Quiet: true})
		}
	}
	return cases
}
