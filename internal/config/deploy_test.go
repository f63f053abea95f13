package config

import (
	"slices"
	"testing"
)

// TestDeployExamples: the documents in deploy/ are good, and belong together.
func TestDeployExamples(t *testing.T) {
	fleet, err := Load("../../deploy/fleet.yaml")
	if err != nil {
		t.Fatal(err)
	}
	agent, err := LoadAgent("../../deploy/agent.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var sha *NodeConfig
	for _, g := range fleet.Gateways {
		n, err := fleet.Node(g.Name)
		if err != nil {
			t.Fatal(err)
		}
		if len(n.Peers) == 0 || len(n.Blocked) != 0 {
			t.Errorf("%s: peers %v, blocked %v", g.Name, n.Peers, n.Blocked)
		}
		if g.Name == agent.Gateway.Name {
			sha = n
		}
	}
	if sha == nil {
		t.Fatalf("the agent's gateway %s is not in the fleet", agent.Gateway.Name)
	}
	peer := sha.Peer(agent.Tenant + "/" + agent.Site)
	if peer == nil {
		t.Fatalf("%s knows no agent %s/%s", sha.Name, agent.Tenant, agent.Site)
	}
	if agent.Gateway.PublicKey != sha.PublicKey {
		t.Error("the agent has another key of its gateway")
	}
	if !slices.Equal(peer.Sources[0].Prefixes, agent.Prefixes) {
		t.Errorf("prefixes %v, the fleet document has %v", agent.Prefixes, peer.Sources[0].Prefixes)
	}
	for _, a := range agent.Gateway.Addresses {
		if !slices.ContainsFunc(sha.Uplinks, func(u NodeUplink) bool { return u.Address == a && slices.Contains(peer.Uplinks, u.Name) }) {
			t.Errorf("address %v is no access address of %s", a, sha.Name)
		}
	}
	if _, err := agent.Node(nil); err != nil {
		t.Error(err)
	}
}
